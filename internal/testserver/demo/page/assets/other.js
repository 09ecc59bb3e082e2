// A page of another origin, in a frame: the browser itself says so in the Origin
// header of what that page opens, and no page can say otherwise.

import { el } from "./dom.js";

const limit = 8000; // ms

// otherName is this server's other name on this machine; "" where it has none.
export function otherName() {
  const { hostname, protocol, port } = location;
  const twin = { "127.0.0.1": "localhost", "[::1]": "localhost", localhost: "127.0.0.1" }[hostname];
  return twin && port ? `${protocol}//${twin}:${port}` : "";
}

// presentElsewhere has the other page show a ticket at a door of this one's
// server. Where the server has no other name, a sandbox stands in: what comes
// out of it has the Origin "null".
export function presentElsewhere(box, path, ticket) {
  const other = otherName();
  const frame = el("iframe", { title: "A page of another origin", src: `${other}/elsewhere` });
  if (!other) frame.setAttribute("sandbox", "allow-scripts");
  box.classList.add("other");
  box.hidden = false;
  box.replaceChildren(el("p", {}, other || "a sandbox, whose origin is null"), frame);

  return new Promise((resolve, reject) => {
    const done = (settle, value) => {
      removeEventListener("message", hear);
      clearTimeout(timer);
      settle(value);
    };
    const hear = ({ source, origin, data }) => {
      if (source !== frame.contentWindow || origin !== (other || "null")) return;
      if (data.ready) frame.contentWindow.postMessage({ path, ticket }, other || "*");
      else done(resolve, data);
    };
    const timer = setTimeout(() => done(reject, new Error("the other page does not answer")), limit);
    addEventListener("message", hear);
  });
}
