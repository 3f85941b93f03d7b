// The questions the page asks, as dialogs of the browser: they keep the focus and close with Escape.

import { el } from "./dom.js";

/** People who can be chosen; a name typed in makes another one. */
const PEOPLE = ["alice", "bob", "carol", "dave", "erin"];

function ask(title: string, confirm: string, ...fields: HTMLElement[]): Promise<boolean> {
  const heading = el("h2", { id: "dialog-title" }, title);
  const form = el("form", { method: "dialog" }, heading, ...fields,
    el("div", { class: "buttons" }, el("button", { value: "" , formnovalidate: true }, "Cancel"), el("button", { value: "yes", class: "primary" }, confirm)));
  const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  fields[0]?.querySelector("input")?.focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(dialog.returnValue === "yes");
  }));
}

const pattern = "[A-Za-z0-9._@\\-]{1,40}";

/** A person and the name of a device. */
export async function askDevice(): Promise<{ user: string; name: string } | undefined> {
  const user = el("input", { name: "user", list: "people", required: true, pattern, autocomplete: "off", value: "carol" });
  const name = el("input", { name: "device", required: true, pattern, autocomplete: "off", value: "phone" });
  const people = el("datalist", { id: "people" }, ...PEOPLE.map((one) => el("option", { value: one })));
  const yes = await ask("Add a device", "Add", el("label", {}, "Whose", user, people), el("label", {}, "Device", name));
  return yes ? { user: user.value, name: name.value } : undefined;
}

/** Some people, and a title where one is asked for. */
export async function askPeople(
  heading: string, confirm: string, without: string[], titled: boolean,
): Promise<{ users: string[]; title: string } | undefined> {
  const title = el("input", { name: "title", maxlength: 100, autocomplete: "off", placeholder: "none for two people" });
  const boxes = PEOPLE.filter((one) => !without.includes(one))
    .map((one) => [one, el("input", { type: "checkbox", name: one })] as const);
  const choice = el("fieldset", {}, el("legend", {}, "People"), ...boxes.map(([one, box]) => el("label", { class: "check" }, box, one)));
  const yes = await ask(heading, confirm, choice, ...(titled ? [el("label", {}, "Title", title)] : []));
  const users = boxes.filter(([, box]) => box.checked).map(([one]) => one);
  return yes && users.length > 0 ? { users, title: title.value.trim() } : undefined;
}
