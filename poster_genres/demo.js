// The page of `python -m stages.demo`. Names of files, words on posters and all answers are text, never HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const HEAT = ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"].map((color) =>
  [0, 2, 4].map((i) => parseInt(color.slice(i, i + 2), 16)));
let about = { genres: [], shown: 10, reads: false, counts: 0.1, max_bytes: Infinity, test: false };
// What is still to be read, in order; the one that is being read; how many were read since there was nothing to do.
let queue = [];
let current = null;
let finished = 0;

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const signed = (logit) => `${logit < 0 ? "−" : "+"}${Math.abs(logit).toFixed(1)}`;
const seconds = (time) => `${time.toFixed(1)} s`;

function say(text) { byId("said").textContent = text; }

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

// ---- The queue

function add(jobs) {
  if (!jobs.length) return;
  notice("");
  document.body.classList.remove("empty");
  byId("clear").hidden = false;
  const cards = jobs.map((job) => {
    job.card = byId("waiting").content.firstElementChild.cloneNode(true);
    job.card.querySelector(".name").textContent = job.name;
    const image = job.card.querySelector("img");
    image.hidden = true;
    if (job.file) {
      // Not all that the server reads can be shown by a browser.
      image.onload = () => { image.hidden = false; };
      image.src = job.address = URL.createObjectURL(job.file);
    }
    return job.card;
  });
  byId("posters").prepend(...cards);
  queue.push(...jobs);
  next();
}

function addFiles(files) {
  add(Array.from(files, (file) => ({ name: file.name || "Pasted picture", file })));
}

function count() {
  queue.forEach((job, i) => {
    const before = i + (current ? 1 : 0);
    job.card.querySelector(".state").textContent = before ? `Waiting for ${before} other${before > 1 ? "s" : ""}` : "";
  });
  const all = finished + queue.length + (current ? 1 : 0);
  byId("progress").hidden = all < 2 || finished === all;
  byId("progress").firstChild.max = all;
  byId("progress").firstChild.value = finished;
  byId("counted").textContent = `${finished} of ${all} posters read`;
  byId("test").disabled = Boolean(current && !current.file);
}

async function next() {
  if (!current && queue.length) {
    const job = current = queue.shift();
    job.card.classList.add("reading");
    job.card.querySelector(".state").textContent = about.reads ? "Looking at the picture and reading the words …" : "Looking at the picture …";
    count();
    try {
      await read(job);
    } catch (error) {
      if (error.name !== "AbortError") fail(job, error instanceof Sentence ? error.message : "The server does not answer; is its command still running?");
    }
    if (job.address) URL.revokeObjectURL(job.address);
    if (current === job) {
      current = null;
      finished = queue.length ? finished + 1 : 0;
      next();
    }
  }
  count();
}

class Sentence extends Error {}

async function read(job) {
  if (job.file && job.file.size > about.max_bytes) throw new Sentence(`This file is larger than ${Math.floor(about.max_bytes / 1e6)} MB; give a smaller one.`);
  job.stop = new AbortController();
  const response = await fetch(job.file ? "posters" : "test-posters", { method: "POST", body: job.file, signal: job.stop.signal });
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Sentence(answer.error || "The server failed on this poster; where its command was typed, it says why.");
  }
  // Two lines of JSON, the second of which takes longer.
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let show = null;
  for (;;) {
    const { value, done } = await reader.read();
    text += decoder.decode(value, { stream: !done });
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      const answer = JSON.parse(text.slice(0, end));
      text = text.slice(end + 1);
      if (show) await show.explained(answer); else show = present(job, answer);
    }
    if (done) break;
  }
}

function fail(job, sentence) {
  job.card.classList.replace("reading", "failed");
  if (job.card.classList.contains("done")) {
    job.card.querySelector(".hint").classList.remove("busy");
    job.card.querySelector(".hint").textContent = sentence;
  } else {
    job.card.querySelector(".state").textContent = sentence;
  }
  say(`${job.name}: ${sentence}`);
}

// ---- A poster that was read

function present(job, answer) {
  const card = job.card;
  const said = answer.verdict.join(", ") || "No genre reaches its threshold";
  const name = answer.title || job.name;
  card.className = "card done";
  card.replaceChildren(byId("done").content.cloneNode(true));
  const find = (selector) => card.querySelector(selector);
  find(".name").textContent = name;
  find("h2").textContent = said;
  find("h2").classList.toggle("none", !answer.verdict.length);
  if (answer.truth) {
    find(".truth").hidden = false;
    find(".truth").append("True genres: ", make("b", "", answer.truth.join(", ") || "none"));
  }
  find("img").src = answer.picture;
  find("img").alt = `Poster: ${name}`;
  find(".took").textContent = `Read in ${seconds(answer.seconds)}`;
  find(".hint").textContent = "Looking for what speaks for each genre …";
  find(".hint").classList.add("busy");

  const genres = answer.genres.slice(0, about.shown);
  let maps = null;
  let pinned = null;
  let pointed = null;

  const buttons = genres.map((genre, i) => {
    const button = make("button", genre.chosen ? "genre chosen" : "genre");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const label = make("span", "label", genre.genre);
    if (answer.truth && answer.truth.includes(genre.genre)) label.append(" ", make("span", "true", "✓ true"));
    const bar = make("span", "bar");
    const [fill, tick] = [make("i"), make("u")];
    fill.style.width = `${100 * genre.probability}%`;
    tick.style.left = `${100 * genre.threshold}%`;
    bar.append(fill, tick);
    const share = make("span", "share", percent(genre.probability));
    share.append(make("span", "unseen", `, ${genre.chosen ? "reaches" : "below"} its threshold of ${percent(genre.threshold)}`));
    button.append(label, bar, share);
    button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") point(i); });
    button.addEventListener("pointerleave", () => point(null));
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) point(i); });
    button.addEventListener("blur", () => point(null));
    button.addEventListener("click", () => {
      pinned = pinned === i ? null : i;
      if (pinned === null) pointed = null;
      draw();
      say(pinned === null ? "" : hint(i));
    });
    const item = make("li");
    item.append(button);
    return item;
  });
  find(".genres ul").append(...buttons);
  card.onkeydown = (event) => {
    if (event.key === "Escape") {
      pinned = pointed = null;
      draw();
    }
  };

  // The same word, or several objects of a class, stand once.
  const groups = new Map();
  answer.found.forEach((one, i) => {
    const key = one.text ? `“${one.text}”` : one.label;
    if (!groups.has(key)) groups.set(key, { text: Boolean(one.text), boxes: [] });
    groups.get(key).boxes.push(i);
  });
  const adds = (group, genre) => group.boxes.reduce((sum, i) => sum + genre.added[i], 0);
  for (const words of [true, false]) {
    const some = [...groups].filter(([, group]) => group.text === words);
    if (!some.length && !(words && about.reads)) continue;
    const section = make("section");
    const list = make("ul");
    for (const [key, group] of some) {
      group.item = make("li", "", group.boxes.length > 1 ? `${key} × ${group.boxes.length}` : key);
      group.item.append(group.value = make("span"));
      list.append(group.item);
    }
    section.append(make("h3", words ? "of-words" : "of-objects"), some.length ? list : make("p", "quiet", "No words were read on this poster."));
    find(".found").append(section);
  }

  function point(i) {
    pointed = i;
    draw();
  }

  function hint(i) {
    const counting = answer.found.filter((_, k) => genres[i].added[k] >= about.counts).length;
    const boxed = counting ? `, and so ${counting > 1 ? "do" : "does"} what is boxed` : "";
    if (!maps) return `${genres[i].genre}: what in the picture speaks for it is still looked for${counting ? "; what is boxed does" : ""}.`;
    if (maps.peaks[i] < 0.02 * maps.top) return `${genres[i].genre}: nothing in the picture speaks for it${counting ? "; what is boxed does" : ""}.`;
    return `${genres[i].genre}: the brighter, the more this part of the picture speaks for it${boxed}.`;
  }

  function draw() {
    const i = pointed ?? pinned;
    card.classList.toggle("shows", i !== null && maps !== null);
    buttons.forEach((item, k) => {
      item.firstChild.classList.toggle("on", k === i);
      item.firstChild.setAttribute("aria-pressed", String(k === pinned));
    });
    for (const group of groups.values()) {
      const best = answer.genres.reduce((a, b) => (adds(group, b) > adds(group, a) ? b : a));
      const genre = i === null ? best : genres[i];
      const logit = adds(group, genre);
      const counts = logit >= about.counts;
      group.value.textContent = i === null ? (counts ? `${genre.genre} ${signed(logit)}` : "") : signed(logit);
      group.item.classList.toggle("counts", i !== null && counts);
    }
    const to = i === null ? "what they speak for" : `what they add to ${genres[i].genre}`;
    for (const [name, what] of [["of-words", "Words read"], ["of-objects", "Objects found"]]) {
      const heading = find(`.${name}`);
      if (heading) heading.textContent = heading.nextSibling.tagName === "UL" ? `${what}, and ${to}` : what;
    }
    drawBoxes(find(".boxes"), answer.found, i === null ? [] : genres[i].added);
    if (i !== null && maps) drawMap(find("canvas"), maps, i);
    if (i !== null) find(".hint").textContent = hint(i);
    else if (maps) find(".hint").textContent = `${matchMedia("(hover: none)").matches ? "Tap" : "Point at"} a genre to see what speaks for it, on one scale for all.`;
  }

  draw();
  say(`${name}: ${said}.`);
  return {
    async explained(second) {
      const image = new Image();
      image.src = second.maps;
      await image.decode();
      const canvas = make("canvas");
      [canvas.width, canvas.height] = [image.width, image.height];
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      maps = { ...second, values: context.getImageData(0, 0, image.width, image.height).data };
      find(".hint").classList.remove("busy");
      find(".legend").hidden = false;
      find(".top").textContent = `${signed(second.top)} logits`;
      find(".legend").title = "What the picture would add to the genre's logit, were all of it like this";
      find(".took").textContent = `Read in ${seconds(answer.seconds)}, explained in ${seconds(second.seconds)}`;
      card.dataset.explained = "";
      draw();
    },
  };
}

function drawMap(canvas, maps, i) {
  [canvas.width, canvas.height] = [maps.width, maps.height];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(maps.width, maps.height);
  const size = 4 * maps.width * maps.height;
  for (let k = 0; k < size; k += 4) {
    const share = maps.values[i * size + k] / 255;
    const at = share * (HEAT.length - 1);
    const [low, high] = [HEAT[Math.floor(at)], HEAT[Math.ceil(at)]];
    for (let c = 0; c < 3; c++) pixels.data[k + c] = low[c] + (at % 1) * (high[c] - low[c]);
    pixels.data[k + 3] = 255 * (0.2 + 0.6 * share);
  }
  context.putImageData(pixels, 0, 0);
}

function drawBoxes(layer, found, added) {
  layer.replaceChildren(...found.flatMap((one, i) => {
    if (!(added[i] >= about.counts)) return [];
    const box = make("span");
    for (const side of ["left", "top", "width", "height"]) box.style[side] = `${100 * one[side]}%`;
    return [box];
  }));
}

// ---- Dropping, pasting, choosing

let inside = 0;
const carriesSomething = (event) => Array.from(event.dataTransfer?.types ?? []).some((type) => type === "Files" || type === "text/uri-list");
addEventListener("dragenter", (event) => {
  if (carriesSomething(event)) { inside++; document.body.classList.add("over"); event.preventDefault(); }
});
addEventListener("dragleave", (event) => {
  if (carriesSomething(event) && --inside <= 0) { inside = 0; document.body.classList.remove("over"); }
});
addEventListener("dragover", (event) => { if (carriesSomething(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!carriesSomething(event)) return;
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("over");
  const folders = Array.from(event.dataTransfer.items).filter((item) => item.webkitGetAsEntry?.()?.isDirectory);
  if (folders.length) notice("Folders are not opened; drop the posters that are in them.");
  else if (event.dataTransfer.files.length) addFiles(event.dataTransfer.files);
  else notice("Addresses are not opened; save the poster and drop its file.");
});
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) addFiles(event.clipboardData.files);
  else notice("There is no picture to paste; copy a picture, not its address.");
});
byId("choose").addEventListener("click", () => byId("files").click());
byId("files").addEventListener("change", (event) => {
  addFiles(event.target.files);
  event.target.value = "";
});
byId("test").addEventListener("click", () => add([{ name: "A poster of the test set", file: null }]));
byId("clear").addEventListener("click", () => {
  queue = [];
  finished = 0;
  if (current) current.stop?.abort();
  current = null;
  byId("posters").replaceChildren();
  document.body.classList.add("empty");
  byId("clear").hidden = true;
  notice("");
  count();
  byId("choose").focus();
});

async function start() {
  document.body.classList.add("empty");
  try {
    about = await (await fetch("about")).json();
    byId("formats").textContent = `JPEG, PNG, GIF, WebP, BMP or TIFF, of up to ${Math.floor(about.max_bytes / 1e6)} MB`;
  } catch {
    notice("The server does not answer; is its command still running?");
  }
  byId("test").hidden = !about.test;
  byId("words").hidden = !about.reads;
}
start();
