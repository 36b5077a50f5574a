// Shows the numbers of the pools twice a second, and asks for what the buttons say. Nothing is kept in the page: each
// answer has all numbers, so a lost one does no harm.
"use strict";

const INTERVAL = 500;
const PATIENCE = 3000; // milliseconds without an answer after which the page says so
const ENDED = 4000; // milliseconds for which an ended process stays in sight
const MAX_DOTS = 100;
const WINDOW = 2; // seconds over which checkouts a second are counted

const byId = (id) => document.getElementById(id);
const source = byId("pool").dataset.source;
const cards = new Map();
const samples = [];
let lastAnswer = Date.now();
const outcomes = new Map(); // when the outcome beside a button came
let lastEvents = "";

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// ---- the numbers ------------------------------------------------------------------------------------------------

async function refresh() {
  try {
    const answer = await fetch(`${source}?format=json`, { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const numbers = await answer.json();
    lastAnswer = Date.now();
    show(numbers);
  } catch {
    // The next attempt comes soon, and `check` says how long there was no answer.
  }
  setTimeout(refresh, INTERVAL);
}

function check() {
  const silence = Date.now() - lastAnswer;
  const trouble = byId("trouble");
  const text = "The server does not answer: all its threads are busy, or it is starting again.";
  if (silence > PATIENCE && trouble.hidden) trouble.textContent = text;
  trouble.hidden = silence <= PATIENCE;
}

function show(numbers) {
  const pools = numbers.processes.filter((each) => "max_size" in each);
  const sum = (name) => pools.reduce((total, each) => total + each[name], 0);
  number(byId("in-use"), sum("in_use"), `of ${sum("max_size")}`);
  number(byId("waiting"), sum("waiting"));
  number(byId("rate"), rate(numbers));
  byId("budget-gauge").hidden = numbers.budget === null;
  if (numbers.budget !== null) {
    const { taken, limit } = numbers.budget;
    number(byId("budget"), taken, limit === null ? "" : `of ${limit}`);
    byId("permits").max = limit ?? Math.max(taken, 1);
    byId("permits").value = taken;
  }
  showProcesses(numbers.processes);
  showRunning(numbers.running);
  showEvents(numbers.events);
}

function number(place, value, unit = "") {
  const text = `${value}${unit && ` ${unit}`}`;
  if (place.textContent === text) return;
  place.replaceChildren(String(value), ...(unit ? [" ", element("small", "", unit)] : []));
}

function rate({ at, totals }) {
  samples.push({ at, checkouts: totals.checkouts ?? 0 });
  while (samples.length > 2 && at - samples[0].at > WINDOW) samples.shift();
  const seconds = at - samples[0].at;
  const checkouts = samples.at(-1).checkouts - samples[0].checkouts;
  return seconds > 0 ? Math.round(checkouts / seconds) : 0;
}

function showProcesses(processes) {
  const alive = new Set(processes.map((each) => each.pid));
  for (const process of processes) {
    if (!cards.has(process.pid)) {
      cards.set(process.pid, newCard(process));
      byId("processes").append(cards.get(process.pid).card);
    }
    update(cards.get(process.pid), process);
  }
  for (const [pid, parts] of cards) {
    if (alive.has(pid)) continue;
    parts.endedAt ??= Date.now();
    parts.card.className = "process ended";
    parts.state.textContent = "ended";
    parts.dots.replaceChildren();
    parts.queue.replaceChildren();
    parts.text.textContent = "Its connections are closed.";
    if (Date.now() - parts.endedAt < ENDED) continue;
    parts.card.remove();
    cards.delete(pid);
  }
}

function newCard({ pid, place }) {
  const card = element("li", "process");
  const title = element("h3", "", `Process ${pid}`);
  const state = element("span", "", place);
  const dots = element("div", "dots");
  const queue = element("div", "queue");
  const text = element("p", "");
  for (const each of [dots, queue]) each.setAttribute("aria-hidden", "true");
  title.append(state);
  card.append(title, dots, queue, text);
  return { card, state, dots, queue, text, endedAt: null };
}

function update(parts, process) {
  parts.card.className = process.ends ? "process ends" : "process";
  parts.state.textContent = process.ends ? "ends after its requests" : process.place;
  parts.endedAt = null;
  if (!("max_size" in process)) {
    parts.text.textContent = "No pool yet: the first query creates it.";
    return;
  }
  const { in_use, connecting, idle, max_size, waiting, holders, waiters } = process;
  const free = Math.max(0, max_size - in_use - connecting - idle);
  const kinds = [
    ...Array(in_use).fill("dot in-use"), ...Array(connecting).fill("dot opening"),
    ...Array(idle).fill("dot idle"), ...Array(free).fill("dot"),
  ].slice(0, MAX_DOTS);
  fill(parts.dots, kinds, (index) => (index < in_use ? about(holders[index]) : ""));
  fill(parts.queue, Array(Math.min(waiting, MAX_DOTS)).fill("visitor"), (index) => about(waiters[index]));
  parts.text.textContent = sentence(process);
}

function fill(place, classNames, title) {
  while (place.children.length > classNames.length) place.lastChild.remove();
  while (place.children.length < classNames.length) place.append(element("i", ""));
  classNames.forEach((className, index) => {
    const dot = place.children[index];
    if (dot.className !== className) dot.className = className;
    dot.title = title(index) ?? "";
  });
}

function about(activity) {
  // The path of a request that has just begun is not known yet.
  return activity && `${activity.path && `${activity.path}, for `}${activity.seconds.toFixed(1)} s`;
}

function sentence({ in_use, connecting, idle, max_size, waiting, holders, failure }) {
  const parts = [`${in_use} in use`, `${idle} idle`];
  if (connecting) parts.push(`${connecting} opening`);
  let text = `${parts.join(", ")} of ${max_size}`;
  if (waiting) text += `; ${waiting} waiting`;
  if (holders.length) text += `. Longest: ${about(holders[0])}`;
  return `${text}.${failure && ` ${failure[0].toUpperCase()}${failure.slice(1)}.`}`;
}

// ---- the buttons ------------------------------------------------------------------------------------------------

const buttons = [...document.querySelectorAll("button[data-action]")];

function showRunning(running) {
  for (const button of buttons) {
    button.setAttribute("aria-disabled", String(running !== ""));
    button.classList.toggle("running", button.dataset.action === running);
  }
}

for (const button of buttons) {
  button.form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-disabled") === "true") return;
    showRunning(button.dataset.action);
    tell(`${button.textContent} is running.`);
    try {
      const answer = await fetch(button.form.action, { method: "POST", headers: { Accept: "application/json" } });
      if (!answer.ok) showOutcome(button, (await answer.json()).message);
    } catch {
      showOutcome(button, "The server did not answer. Please try again.");
    }
  });
}

// ---- what happened ----------------------------------------------------------------------------------------------

function tell(text) {
  byId("news").textContent = text;
}

function showOutcome(button, text, at = Date.now() / 1000) {
  outcomes.set(button, at);
  for (const each of outcomes.keys()) outcomePlace(each).classList.toggle("news", each === button);
  outcomePlace(button).textContent = text;
  outcomePlace(button).hidden = false;
  tell(`${button.textContent}. ${text}`);
}

function outcomePlace(button) {
  return button.closest("li").querySelector(".outcome");
}

function showEvents(events) {
  const key = JSON.stringify(events);
  if (key === lastEvents) return;
  lastEvents = key;
  byId("events").replaceChildren(...events.map(line).reverse());
  for (const { at, title, text } of events.filter((each) => each.kind === "done")) {
    const button = buttons.find((each) => each.textContent === title);
    if (button && !(outcomes.get(button) >= at)) showOutcome(button, text, at);
  }
}

function line({ at, kind, title, text, times }) {
  const made = element("li", kind);
  const moment = new Date(at * 1000);
  const time = element("time", "", moment.toLocaleTimeString([], { hour12: false }));
  time.dateTime = moment.toISOString();
  const words = element("span", "", text + (times > 1 ? ` (${times} times)` : ""));
  if (title) words.prepend(element("strong", "", title), ": ");
  made.append(time, words);
  return made;
}

setInterval(check, 1000);
refresh();
