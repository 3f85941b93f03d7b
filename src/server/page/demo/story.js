// A minute that shows why nothing is lost: one device misses everything and catches up.

const PAUSE = 1500;
const CONV = "d:alice:bob";

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Steps of (what is told, what is done); `devices` by user and name.
function steps(devices) {
  const [phone, laptop] = [devices["alice phone"], devices["bob laptop"]];
  const bobPhone = devices["bob phone"];
  const newest = (device, mine) => {
    const conv = device.cache.conversations.get(CONV);
    const messages = conv ? device.cache.shown(conv) : [];
    return messages.filter((message) => !message.recalled && (message.sender === device.user) === mine).at(-1)?.seq;
  };
  return [
    ["Bob's laptop goes off line. Its cursor stays where it is.", () => laptop.offline()],
    ["Alice writes: one entry in the conversation, one pointer in each person's timeline.", () => phone.send(CONV, "Are you coming tonight?")],
    ["And again.", () => phone.send(CONV, "Bring the blue umbrella")],
    ["Bob answers from his phone.", () => bobPhone.send(CONV, "Yes, at eight")],
    ["Alice takes her last message back: its body is erased, for everybody.",
      () => phone.request("recall", { conv_id: CONV, target: newest(phone, true) })],
    ["Bob deletes one of Alice's messages for himself. She keeps it.",
      () => bobPhone.request("delete", { conv_id: CONV, ranges: [[newest(bobPhone, false), newest(bobPhone, false)]] })],
    ["Bob's laptop comes back and reads its timeline from its cursor: same entries, same order, none missing.", () => laptop.online()],
    ["The laptop shows what the phone shows: a push is only a shortcut of a pull.", () => {}],
  ];
}

export async function play(devices, tell) {
  for (const device of Object.values(devices)) device.online();
  await wait(PAUSE);
  for (const [text, run] of steps(devices)) {
    tell(text);
    try {
      await run();
    } catch (error) {
      tell(`${text} (${error.message})`);
    }
    await wait(PAUSE);
  }
}
