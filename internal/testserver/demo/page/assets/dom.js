// Elements, made and found.

export const $ = (id) => document.getElementById(id);

// el makes an element. What starts with "on" listens, what the element has as a
// property is set as that, the rest are attributes.
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(node.dataset, value);
    else if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined && c !== ""));
  return node;
}

export const still = matchMedia("(prefers-reduced-motion: reduce)");

export const plural = (n, one, many = one + "s") => `${n} ${n === 1 ? one : many}`;

// fill writes a text only where it differs: a screen reader hears what changed.
export function fill(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
