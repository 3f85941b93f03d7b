// A minute that shows why nothing is lost: one device misses everything and catches up.

import type { Device } from "./device.js";

const PAUSE = 1600;
const CONV = "d:alice:bob";
const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function newest(device: Device, mine: boolean): number {
  const held = device.client.state.conversations.get(CONV);
  const found = [...held?.messages ?? []].filter(([, message]) => !message.recalled && (message.senderId === device.user) === mine);
  return Math.max(1, ...found.map(([seq]) => seq));
}

function steps(alice: Device, phone: Device, laptop: Device): [string, () => unknown][] {
  const say = (device: Device, text: string): Promise<unknown> => device.client.send({ conv_id: CONV }, { text });
  return [
    ["Bob's laptop goes off line. Its cursor stays where it is.", () => laptop.switch(false)],
    ["Alice writes: one entry in the conversation, one pointer in each person's timeline.", () => say(alice, "Are you coming tonight?")],
    ["And again.", () => say(alice, "Bring the blue umbrella")],
    ["Bob answers from his phone.", () => say(phone, "Yes, at eight")],
    ["Alice takes her last message back: its body is erased, for everybody.", () => alice.client.recall(CONV, newest(alice, true))],
    ["Bob deletes one of Alice's messages for himself. She keeps it.",
      () => phone.client.delete(CONV, [[newest(phone, false), newest(phone, false)]])],
    ["Bob's laptop comes back and reads its timeline from its cursor: same entries, same order, none missing.", () => laptop.switch(true)],
    ["The laptop shows what the phone shows: a push is only a shortcut of a pull.", () => {}],
  ];
}

/** Plays it on three devices and tells what happens. */
export async function play(alice: Device, phone: Device, laptop: Device, tell: (text: string) => void): Promise<void> {
  for (const device of [alice, phone, laptop]) device.switch(true);
  await wait(PAUSE);
  for (const [text, run] of steps(alice, phone, laptop)) {
    tell(text);
    try {
      await run();
    } catch (error) {
      tell(`${text} (${String(error)})`);
    }
    await wait(PAUSE);
  }
}
