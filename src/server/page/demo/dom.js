// Elements, and names people read.

// Makes an element. Attributes that begin with "on" are listeners; children may be null.
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map((child) =>
    child instanceof Node ? child : String(child)));
  return node;
}

// A conversation as `user` calls it; for nobody in particular without one.
export function labelOf(id, title, user) {
  if (title) return title;
  if (!id.startsWith("d:")) return "group";
  const people = id.split(":").slice(1);
  return user ? people.find((name) => name !== user) ?? user : people.join(" and ");
}
