// The pages work without this. It shows what is new while a page is open, and makes keys of links and buttons.
"use strict";

const POLL_MS = 5000;
const QUIET_MS = 300;

const newLink = document.getElementById("new");
const live = document.getElementById("live");
const announcement = document.getElementById("announcement");

let isUpdating = false;
let isAgain = false;
let timer = 0;

// Several events in a short time are one update. A page in the background catches up when it is looked at.
function update() {
  if (document.hidden || timer !== 0) return;
  timer = setTimeout(async () => {
    timer = 0;
    if (isUpdating) {
      isAgain = true;
      return;
    }
    isUpdating = true;
    try {
      if (newLink) await updateList();
      if (live) await updateMessage();
    } catch {
      // The console was stopped. The next event comes when it runs again.
    }
    isUpdating = false;
    if (isAgain) {
      isAgain = false;
      update();
    }
  }, QUIET_MS);
}

// Changes the numbers, and says how many messages came. The rows stay where they are while somebody reads them.
async function updateList() {
  const query = new URLSearchParams(newLink.dataset.query);
  query.set("after", newLink.dataset.newest);
  const answer = await fetch(`/status?${query}`, { headers: { accept: "application/json" } });
  if (!answer.ok) return;
  const status = await answer.json();
  for (const number of document.querySelectorAll("[data-count]")) {
    const name = number.dataset.count;
    number.textContent = name === "received" ? status.received : status.counts[name];
  }
  if (status.new === 0) return;
  const text = `${status.new} new`;
  if (newLink.textContent !== text) announcement.textContent = `${text}, key l loads them`;
  newLink.textContent = text;
  newLink.hidden = false;
}

// Replaces the state and the timeline of a message, and the list beside it, but nothing that has the focus. The page
// may be the answer to a form, whose address is another one.
async function updateMessage() {
  const answer = await fetch(live.dataset.path, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const before = live.querySelector(".state")?.textContent;
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = page.getElementById(part.id);
    if (!next || next.isEqualNode(part) || part.contains(document.activeElement)) continue;
    part.replaceChildren(...next.childNodes);
  }
  const after = live.querySelector(".state")?.textContent;
  if (before !== after) {
    document.title = page.title;
    announcement.textContent = `now ${after}`;
  }
}

// Four pages have a stream. The others are answered 204, which ends their stream, and ask now and then. A page in
// the background needs neither.
let events = null;
let poll = 0;

function listen() {
  events?.close();
  clearInterval(poll);
  if (document.hidden) return;
  // Its first event comes at once.
  events = new EventSource("/live");
  events.onmessage = update;
  events.onerror = () => {
    if (events.readyState !== EventSource.CLOSED) return;
    clearInterval(poll);
    poll = setInterval(update, POLL_MS);
    update();
  };
}

// The key's link, button, field or fold.
function use(key) {
  for (const target of document.querySelectorAll("[data-key]")) {
    if (target.dataset.key !== key || target.hidden) continue;
    if (target.matches("input")) {
      target.focus();
      target.select();
    } else if (target.matches("summary")) {
      target.parentElement.open = true;
      target.parentElement.querySelector("input:not([type=hidden]), button").focus();
    } else if (target.matches("button")) {
      target.focus();
    } else {
      target.click();
    }
    return true;
  }
  return false;
}

// Moves between rows, which are links: Enter opens the one in focus.
function move(by) {
  const rows = [...document.querySelectorAll("[data-row]")];
  if (rows.length === 0) return false;
  const isHere = (row) => row.matches("[aria-current]");
  const focused = rows.indexOf(document.activeElement);
  const at = focused === -1 ? rows.findIndex(isHere) : focused;
  rows[Math.min(Math.max(at + by, 0), rows.length - 1)].focus();
  return true;
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const isTyping = event.target.matches("input, select, textarea");
  if (isTyping) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const isDone =
    event.key === "j" ? move(1)
    : event.key === "k" ? move(-1)
    : event.key === "?" ? (location.assign("/keys"), true)
    : ["/", "r", "d", "p", "l", "Escape"].includes(event.key) ? use(event.key)
    : false;
  if (isDone) event.preventDefault();
}

document.addEventListener("keydown", pressed);
if (newLink || live) {
  document.addEventListener("visibilitychange", listen);
  listen();
}
