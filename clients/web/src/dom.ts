// Elements, and names people read.

type Attributes = Record<string, string | number | boolean | EventListener | undefined>;
type Child = Node | string | number | null | undefined;

/** Makes an element. Attributes that begin with "on" are listeners; `false` and absent ones are left out. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K, attributes: Attributes = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(typeof child === "number" ? String(child) : child);
  return node;
}

/** A conversation as `user` calls it; for nobody in particular without one. */
export function labelOf(id: string, title: string | undefined, user?: string): string {
  if (title) return title;
  if (!id.startsWith("d:")) return "group";
  const people = id.split(":").slice(1);
  return user ? people.find((name) => name !== user) ?? user : people.join(" and ");
}

/** Runs it once before the next picture, however often it is asked for. */
export function perFrame(draw: () => void): () => void {
  let queued = false;
  return () => {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      draw();
    });
  };
}

/** The colour of a person: one of six, by name. */
export function hueOf(user: string): number {
  if (user === "alice") return 0;
  if (user === "bob") return 1;
  return 2 + [...user].reduce((sum, letter) => sum + (letter.codePointAt(0) ?? 0), 0) % 4;
}
