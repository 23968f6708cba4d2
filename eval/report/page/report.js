const main = async () => {
const data = await openPack();
const columns = data.images;
const images = columns.source.map((source, place) => ({
  source, place, row: columns.row[place], subject: columns.subject[place], text: columns.text[place], prompt: columns.prompt[place],
  sample: columns.sample[place], seedSet: columns.seed_set[place], nearest: columns.nearest[place],
  values: data.scores.map((column) => column[place]),
}));
let sorted = [];  // the images as they are shown, which the arrow keys follow
let returnTo = null;

const fill = (id, all, texts) => {
  if (all) $(id).append(new Option(all, ""));
  texts.forEach((text, place) => $(id).append(new Option(text, place)));
};
const titles = data.rows.map((row) => row[1]);
fill("subject", "all subjects", data.subjects.map((subject) => subject.name));
fill("prompt", "all prompts", []);
for (const kind of [...new Set(data.prompts.map((prompt) => prompt[1]))]) $("prompt").append(new Option("all: " + kind.replace("_", " "), kind));
data.prompts.forEach((prompt, place) => $("prompt").append(new Option(prompt[0], place)));
fill("method", "all methods", titles);
fill("metric", "", data.metrics.map((metric) => metric[0]));

const show = (what, text) => {
  const element = make("img", "image");
  element.alt = text;
  element.decoding = "sync";
  element.onload = () => { if (element.naturalWidth < 128) element.classList.add("small"); };
  element.src = data.source(what);
  return element;
};
const figure = (what, text) => {
  const element = make("figure");
  element.append(show(what, text), make("figcaption", "", text));
  return element;
};
const number = (value) => value === null ? "–" : value.toFixed(3);
const promptText = (image) => data.prompts[image.text][0].replace("…", data.subjects[image.subject].noun);
const label = (image) => "seed set " + image.seedSet + ", sample " + image.sample;
// The permanent link is the image's path in a results folder
const link = (image) => "#" + ["seed" + image.seedSet, data.rows[image.row][0], data.subjects[image.subject].name,
  String(image.prompt).padStart(2, "0") + "-" + image.sample].map(encodeURIComponent).join("/");
const byLink = new Map(images.map((image) => [link(image), image]));

const chosen = () => images.filter((image) => {
  const prompt = $("prompt").value;
  return ($("subject").value === "" || image.subject === +$("subject").value)
    && ($("method").value === "" || image.row === +$("method").value)
    && (prompt === "" || data.prompts[image.text][1] === prompt || (/^\d+$/.test(prompt) && image.text === +prompt));
});
// Ascending worst-to-best; null last in any order
const ordered = (items, value) => {
  if ($("order").value === "suite") return items;
  const better = data.metrics[+$("metric").value][1] ? 1 : -1;
  const sign = $("order").value === "worst" ? better : -better;
  return items.map((item) => [value(item), item]).sort((a, b) => compare(a[0], b[0], sign)).map((pair) => pair[1]);
};
const bySuite = (a, b) => a.subject - b.subject || a.prompt - b.prompt || a.seedSet - b.seedSet || a.sample - b.sample || a.row - b.row;
const sameKey = (image) => [image.subject, image.prompt, image.seedSet, image.sample].join();

// One image with its references; the keys go on to others
let zoomed = null;
const zoom = (image) => {
  zoomed = image;
  const subject = data.subjects[image.subject];
  const buttons = make("div", "buttons"), permanent = make("a", "", "Link");
  permanent.href = link(image);
  permanent.title = "Permanent link to this image";
  for (const [text, step, title] of [["←", -1, "Previous image (←)"], ["→", 1, "Next image (→)"]]) {
    const button = make("button", "", text);
    button.title = title;
    button.onclick = () => go(step);
    buttons.append(button);
  }
  const close = make("button", "", "Close");
  close.onclick = () => $("zoom").close();
  buttons.prepend(permanent);
  buttons.append(close);
  const nearest = image.nearest === null ? null : subject.references[image.nearest];
  const large = make("div", nearest === null ? "large two" : "large");
  large.append(figure(subject.references[0], "reference 1"), figure(image.source, titles[image.row]));
  if (nearest !== null) large.append(figure(nearest, "nearest reference: " + (image.nearest + 1)));
  const references = make("div", "references");
  subject.references.forEach((source, place) => {
    const each = show(source, "reference " + (place + 1));
    each.title = each.alt;
    each.classList.toggle("nearest", place === image.nearest);
    references.append(each);
  });
  const table = make("table");
  image.values.forEach((value, place) => {
    const row = table.insertRow();
    row.insertCell().textContent = data.metrics[place][0];
    row.insertCell().textContent = number(value);
  });
  const facts = make("div", "facts"), place = sorted.indexOf(image);
  facts.append(table, references);
  const position = place < 0 ? "" : ", " + (place + 1) + " of " + sorted.length;
  $("zoom").replaceChildren(buttons, make("h3", "", subject.name + ": " + promptText(image)), make("p", "", label(image) + position), large, facts);
  if (!$("zoom").open) { returnTo = document.activeElement; $("zoom").showModal(); }
  $("zoom").focus();  // whatever had the focus is replaced
  history.replaceState(null, "", link(image));
};
const go = (step) => {
  const next = sorted[Math.max(0, sorted.indexOf(zoomed)) + step];
  if (next) zoom(next);
};
const goMethod = (step) => {
  const same = images.filter((image) => sameKey(image) === sameKey(zoomed)).sort((a, b) => a.row - b.row);
  zoom(same[(same.indexOf(zoomed) + step + same.length) % same.length]);
};
const KEYS = {
  ArrowLeft: () => go(-1), ArrowRight: () => go(1), ArrowUp: () => goMethod(-1), ArrowDown: () => goMethod(1),
  Home: () => zoom(sorted[0]), End: () => zoom(sorted.at(-1)),
};
document.addEventListener("keydown", (event) => {
  if ($("zoom").open && KEYS[event.key]) { event.preventDefault(); KEYS[event.key](); }
});
$("zoom").addEventListener("click", (event) => { if (event.target === $("zoom")) $("zoom").close(); });
$("zoom").addEventListener("close", () => {
  history.replaceState(null, "", location.pathname + location.search);
  const place = sorted.indexOf(zoomed);
  if (returnTo && returnTo.isConnected) returnTo.focus({ preventScroll: true });
  else if (place >= 0 && list.find) list.find(place);
});
const follow = () => { if (byLink.has(location.hash)) zoom(byLink.get(location.hash)); };
addEventListener("hashchange", follow);

// Only the lines near the screen are in the page; all have one height
const list = { count: 0, height: 1, line: null, lines: new Map(), find: null };
const fillLines = () => {
  const box = $("gallery"), top = -box.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor((top - 1.5 * innerHeight) / list.height));
  const last = Math.min(list.count, Math.ceil((top + 2.5 * innerHeight) / list.height));
  for (const [place, element] of list.lines) {
    if (place < first || place >= last) { element.remove(); list.lines.delete(place); }
  }
  for (let place = last - 1; place >= first; place--) {
    if (list.lines.has(place)) continue;
    const element = list.line(place);
    element.style.top = place * list.height + "px";
    box.insertBefore(element, list.lines.get(place + 1) || null);
    list.lines.set(place, element);
  }
};
addEventListener("scroll", fillLines, { passive: true });

const opens = (element, image) => {
  element.tabIndex = 0;
  element.setAttribute("role", "button");
  element.onclick = () => zoom(image);
  element.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); zoom(image); } };
  return element;
};
const card = (image) => {
  const element = make("article", "card"), pair = make("div", "pair"), subject = data.subjects[image.subject];
  pair.append(figure(subject.references[0], subject.name), figure(image.source, "generated"));
  const metric = +$("metric").value, top = make("div", "top"), name = make("b", "", titles[image.row]);
  name.title = titles[image.row];
  top.append(name, make("span", "value", data.metrics[metric][0] + " " + number(image.values[metric])));
  element.append(pair, top, make("span", "text", promptText(image)));
  return opens(element, image);
};
const cards = (items) => {
  sorted = ordered([...items].sort(bySuite), (image) => image.values[+$("metric").value]);
  const across = Math.max(1, Math.floor(($("gallery").clientWidth + 14) / (290 + 14)));
  list.count = Math.ceil(sorted.length / across);
  list.line = (place) => {
    const line = make("div", "line");
    line.style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
    line.append(...sorted.slice(place * across, (place + 1) * across).map(card));
    return line;
  };
  list.find = (place) => scrollTo(0, scrollY + $("gallery").getBoundingClientRect().top + Math.floor(place / across) * list.height - 120);
  return sorted.length + " images";
};
const side = (items) => {
  const groups = new Map();
  for (const image of [...items].sort(bySuite)) {
    groups.set(sameKey(image), [...(groups.get(sameKey(image)) || []), image]);
  }
  const metric = +$("metric").value;
  const mean = (group) => {
    const values = group.map((image) => image.values[metric]).filter((value) => value !== null);
    return values.length ? values.reduce((a, b) => a + b) / values.length : null;
  };
  const lines = ordered([...groups.values()], mean), rows = [...new Set(items.map((image) => image.row))].sort((a, b) => a - b);
  sorted = lines.flat();
  list.count = lines.length;
  const cell = (content, ...texts) => {
    const element = make("div", "cell");
    element.append(content, ...texts.map((text) => make("span", "", text)));
    return element;
  };
  list.line = (place) => {
    const group = lines[place], subject = data.subjects[group[0].subject], line = make("div", "line"), head = make("div", "cell head");
    line.style.gridAutoFlow = "column";
    head.append(make("b", "", subject.name), make("br"), promptText(group[0]), make("br"), make("small", "", label(group[0])));
    line.append(head, cell(show(subject.references[0], subject.name), "reference"));
    for (const row of rows) {
      const image = group.find((other) => other.row === row);
      line.append(image ? opens(cell(show(image.source, titles[row]), titles[row], number(image.values[metric])), image) : cell(make("div", "image"), titles[row], "–"));
    }
    return line;
  };
  list.find = (place) => {
    const line = lines.findIndex((group) => group.includes(sorted[place]));
    scrollTo(0, scrollY + $("gallery").getBoundingClientRect().top + line * list.height - 120);
  };
  return lines.length + " rows";
};
const draw = () => {
  const view = $("view").value;
  for (const element of list.lines.values()) element.remove();
  list.lines.clear();
  $("gallery").className = view;
  $("count").textContent = (view === "cards" ? cards : side)(chosen());
  if (list.count) {
    const probe = list.line(0);
    $("gallery").append(probe);
    list.height = probe.getBoundingClientRect().height + 14;
    probe.remove();
  }
  $("gallery").style.height = list.count * list.height + "px";
  fillLines();
};
for (const id of ["subject", "prompt", "method", "metric", "order", "view"]) $(id).onchange = draw;
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } else fillLines(); });
draw();
follow();
document.documentElement.dataset.ready = Math.round(performance.now());
};
main();
