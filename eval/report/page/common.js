"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};

// Light or dark: as the system has it, until the button says otherwise
const stored = (value) => {
  try {
    if (value !== undefined) localStorage.setItem("bdkit-theme", value);
    return localStorage.getItem("bdkit-theme");
  } catch { return value; }
};
if (stored()) document.documentElement.dataset.theme = stored();
const system = matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.documentElement.dataset.theme || (system.matches ? "dark" : "light");
let drawPlots = () => {};
$("theme").onclick = () => {
  document.documentElement.dataset.theme = stored(theme() === "dark" ? "light" : "dark");
  drawPlots();
};
system.addEventListener("change", () => drawPlots());
// Ink of the plots -> on a dark page
const DARK_INK = { "#000000": "#e6e9ef", "#e5e7eb": "#2e3542", "#6b7280": "#9aa4b2", "#374151": "#c5ccd8" };
const inked = (svg) => theme() === "light" ? svg
  : svg.replace("<svg ", '<svg fill="#e6e9ef" ').replace(/#(000000|e5e7eb|6b7280|374151)/g, (ink) => DARK_INK[ink]);

// Tables: a click on a head sorts by the number that a cell begins with, else by its text
const key = (cell) => {
  const text = cell.textContent.trim();
  const number = parseFloat(text.replace("+", ""));
  return Number.isNaN(number) || /^[^-+\d]/.test(text) ? (text === "–" ? null : text) : number;
};
const compare = (a, b, sign) => {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b));
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("th")];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending" && column > 0 || head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    [...body.rows].map((row) => [key(row.cells[column]), row])
      .sort((a, b) => compare(a[0], b[0], down ? -1 : 1)).forEach(([, row]) => body.append(row));
  }));
}

// The pack, as eval/report/pack.py writes it: 7 bits a character, or an unsafe one of four and the next 7 bits
const unpack = (text) => {
  const bytes = new Uint8Array(Math.ceil(text.length * 14 / 8));
  let bits = 0, held = 0, length = 0;
  const push = (symbol) => {
    bits = (bits << 7 | symbol) & 0x7fff;
    held += 7;
    if (held >= 8) { held -= 8; bytes[length++] = bits >> held; }
  };
  for (let place = 0; place < text.length; place++) {
    const code = text.charCodeAt(place);
    if (code < 0x80) { push(code); continue; }
    push([0, 10, 13, 60][code - 0x80 >> 7]);
    push(code & 0x7f);
  }
  return bytes.subarray(0, length);
};
const inflate = async (bytes) => {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
};
const openPack = async () => {
  const bytes = unpack($("pack").textContent);
  const size = new DataView(bytes.buffer).getUint32(0, true);
  const data = await inflate(bytes.subarray(4, 4 + size));
  const starts = [4 + size];
  for (const each of data.sizes) starts.push(starts.at(-1) + each);
  const urls = new Map();
  // A number is a thumbnail of the pack, text is a link
  data.source = (what) => {
    if (typeof what === "string") return what;
    if (!urls.has(what)) urls.set(what, URL.createObjectURL(new Blob([bytes.subarray(starts[what], starts[what + 1])], { type: "image/webp" })));
    return urls.get(what);
  };
  drawPlots = () => {
    for (const image of document.querySelectorAll("[data-plot]")) {
      URL.revokeObjectURL(image.src);
      image.src = URL.createObjectURL(new Blob([inked(data.plots[image.dataset.plot])], { type: "image/svg+xml" }));
    }
  };
  drawPlots();
  for (const image of document.querySelectorAll("[data-image]")) image.src = data.source(+image.dataset.image);
  return data;
};
