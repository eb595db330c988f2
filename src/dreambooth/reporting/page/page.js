"use strict";
const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

/** Creates an element with properties and children. Text is never parsed as HTML. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Tables: a click on a heading sorts by it, a second click reverses the order; blanks stay last.
for (const button of all(".sort")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const column = heading.cellIndex;
    const rows = heading.closest("table").tBodies[0];
    const numeric = button.dataset.sort === "number";
    const before = heading.getAttribute("aria-sort");
    const first = numeric ? "descending" : "ascending";
    const direction = before === first ? (numeric ? "ascending" : "descending") : first;
    all("th[aria-sort]", heading.parentElement).forEach((th) => th.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", direction);
    const value = (row) => {
      const cell = row.cells[column];
      return numeric ? parseFloat(cell.dataset.value ?? "NaN") : cell.textContent.trim();
    };
    const sign = direction === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (!numeric) return sign * x.localeCompare(y, undefined, { numeric: true });
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
      return sign * (x - y);
    };
    rows.append(...[...rows.rows].sort(compare));
    announce(`Sorted by ${button.textContent}, ${direction}`);
  });
}

/** Reports an action to screen readers. */
function announce(text) {
  find("#status").textContent = text;
}

// Commands: each has a button that copies it.
for (const button of all(".copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = find("code", button.parentElement);
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch { // no permission: use execCommand; if that fails too, the text stays selected
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    announce("Copied the command");
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

// Navigation: mark the section in view.
const links = new Map(all("nav a").map((a) => [a.hash.slice(1), a]));
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(target.id).setAttribute("aria-current", "true");
    }
  },
  { rootMargin: "-20% 0px -75% 0px" },
);
links.forEach((_, id) => watcher.observe(document.getElementById(id)));

// Pictures.
const { cells, subjects, groups, runs, pictures } = JSON.parse(find("#data").textContent);
const filters = find("#filters");
const BATCH_SIZE = 120; // pictures that are added at once
let chosen = []; // pictures that pass the filters
let shown = 0; // number of them on the page
let current = 0; // index in `chosen` of the picture in the large view

const caption = (picture) => picture.label || cells[runs[picture.run].cell];
const source = (picture) => (picture.small ? `data:image/webp;base64,${picture.small}` : picture.link);

function description(picture) {
  const { subject, seed } = runs[picture.run];
  return `${picture.prompt || "a photo"}, index ${picture.index}: ${caption(picture)}, ${subjects[subject]}` +
    (seed && !picture.label ? `, seed ${seed}` : "");
}

function fill(select, names, everything) {
  select.append(make("option", { value: "", textContent: everything }));
  names.forEach((name, i) => select.append(make("option", { value: i, textContent: name })));
  select.closest("label").hidden = names.length < 2;
}

function applyFilters() {
  const { subject, group, cell } = filters.elements;
  chosen = pictures.filter(
    (p) =>
      (subject.value === "" || runs[p.run].subject === +subject.value) &&
      (group.value === "" || p.group === +group.value) &&
      (cell.value === "" || p.label || runs[p.run].cell === +cell.value),
  );
  // Sort by subject, then by group. Within a group, pictures are ordered by index already.
  chosen.sort((a, b) => runs[a.run].subject - runs[b.run].subject || a.group - b.group);
  find("#count").textContent = chosen.length === 1 ? "1 image" : `${chosen.length} images`;
  find("#gallery").replaceChildren();
  shown = 0;
  showMore();
}

function showMore() {
  const gallery = find("#gallery");
  const end = shown + BATCH_SIZE;
  while (shown < chosen.length && (shown < end || !startsGroup(shown))) {
    const picture = chosen[shown];
    if (startsGroup(shown)) gallery.append(makeGroup(picture));
    gallery.lastElementChild.lastElementChild.append(makeTile(picture, shown));
    shown += 1;
  }
  const more = find("#more");
  more.hidden = shown >= chosen.length;
  more.textContent = `Show more (${chosen.length - shown} left)`;
}

function startsGroup(i) {
  if (i === 0) return true;
  const [a, b] = [chosen[i - 1], chosen[i]];
  return a.group !== b.group || runs[a.run].subject !== runs[b.run].subject;
}

/** Creates an empty group with as many columns as pictures with the same index, at most 8. */
function makeGroup(picture) {
  const sameGroup = chosen.filter((p) => p.group === picture.group && runs[p.run].subject === runs[picture.run].subject);
  const perIndex = new Map();
  sameGroup.forEach((p) => perIndex.set(p.index, (perIndex.get(p.index) ?? 0) + 1));
  const widest = Math.max(...perIndex.values());
  const tiles = make("div", { className: "tiles" });
  tiles.style.setProperty("--columns", widest > 1 ? Math.min(widest, 8) : 8);
  const name = groups[picture.group].name;
  const title = subjects.length > 1 ? `${subjects[runs[picture.run].subject]}: ${name}` : name;
  return make("section", { className: "group" }, make("h3", { textContent: title }), tiles);
}

function makeTile(picture, i) {
  const image = make("img", { src: source(picture), alt: description(picture), decoding: "async" });
  image.addEventListener("error", () => image.classList.add("empty"), { once: true });
  image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth <= 96));
  const button = make("button", { type: "button", className: "tile" }, image,
    make("span", { textContent: caption(picture), ariaHidden: "true" }));
  button.addEventListener("click", () => open(i));
  return button;
}

// The large view.
const dialog = find("#large");
const large = find("img", dialog);

function open(i) {
  current = i;
  const picture = chosen[i];
  const run = runs[picture.run];
  large.onerror = () => { // the file is gone: show the thumbnail
    large.onerror = null;
    large.src = source(picture);
    find("#file").hidden = true;
  };
  find("#file").hidden = false;
  large.src = picture.link;
  large.alt = description(picture);
  find("#file").href = picture.link;
  find("#large-title").textContent = picture.prompt || groups[picture.group].name;
  const facts = { Subject: subjects[run.subject], Cell: caption(picture), Index: picture.index };
  if (!picture.label && run.seed !== "") facts.Seed = run.seed;
  facts.Run = run.folder;
  const items = Object.entries(facts).flatMap(([name, value]) => [
    make("dt", { textContent: name }), make("dd", { textContent: value })]);
  if (run.more) {
    items.push(make("dt", { textContent: "More" }), make("dd", {}, make("a",
      { href: `${run.link}/images/`, textContent: `${run.more} images of this run that are not on the page` })));
  }
  find(".made", dialog).replaceChildren(...items);
  const scores = Object.entries(picture.scores).map(([name, value]) => make("div", {},
    make("dt", { textContent: name.replaceAll("_", " ") }), make("dd", { textContent: value })));
  find(".scores", dialog).replaceChildren(...scores);
  find(".again", dialog).hidden = !picture.command;
  find(".again code", dialog).textContent = picture.command;
  if (!dialog.open) dialog.showModal();
}

/** Opens the next (1) or previous (-1) picture; the ends are joined. */
function step(by) {
  open((current + by + chosen.length) % chosen.length);
}

/** Opens the picture of the same subject, prompt, index and seed in the next or previous cell. */
function stepCell(by) {
  const opened = chosen[current];
  const same = chosen.filter((p) => p.group === opened.group && p.index === opened.index &&
    runs[p.run].subject === runs[opened.run].subject &&
    (p === opened || runs[p.run].seed === runs[opened.run].seed || p.label));
  const next = same[(same.indexOf(opened) + by + same.length) % same.length];
  open(chosen.indexOf(next));
}

if (pictures.length) {
  fill(filters.elements.subject, subjects, "All subjects");
  fill(filters.elements.group, groups.map((g) => g.name), "All prompts");
  fill(filters.elements.cell, cells, "All cells");
  if (subjects.length > 1) filters.elements.subject.value = "0";
  filters.hidden = false;
  filters.addEventListener("change", applyFilters);
  filters.addEventListener("submit", (event) => event.preventDefault());
  find("#more").addEventListener("click", () => {
    const first = shown;
    showMore();
    all(".tile")[first]?.focus();
  });
  applyFilters();
  find("#previous").addEventListener("click", () => step(-1));
  find("#next").addEventListener("click", () => step(1));
  find("#close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => all(".tile")[current]?.focus());
  dialog.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: () => step(-1), ArrowRight: () => step(1),
      ArrowUp: () => stepCell(-1), ArrowDown: () => stepCell(1) };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
}
