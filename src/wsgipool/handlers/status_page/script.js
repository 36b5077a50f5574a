"use strict";
// Refreshes <main> in place every two seconds. Elements that stay keep their focus, their scroll position, and whether
// they are open. While text is selected, and in a hidden tab, nothing changes.
(() => {
  const PERIOD = 2000;
  const PATIENCE = 10000;
  const main = document.getElementById("page");
  const state = document.getElementById("state");
  const announcement = document.getElementById("announcement");
  const pause = document.getElementById("pause");
  let updated = Date.now();
  let problem = "";
  let isPaused = false;
  let timer = 0;
  let isAsking = false;

  const hasSelection = () => {
    const selection = document.getSelection();
    return !selection.isCollapsed && main.contains(selection.anchorNode);
  };

  const show = () => {
    const seconds = Math.round((Date.now() - updated) / 1000);
    const reason = problem || (isPaused ? "paused" : hasSelection() ? "waiting: text is selected" : "");
    state.textContent = `${reason && `${reason}; `}updated ${seconds} s ago`;
    state.classList.toggle("failing", problem !== "");
  };

  const setProblem = (text) => {
    // A screen reader hears of a change, and not of each second.
    if (Boolean(text) !== Boolean(problem)) announcement.textContent = text || "The server answers again";
    problem = text;
  };

  const isSame = (old, fresh) =>
    old && old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName &&
    old.id === fresh.id && old.dataset?.key === fresh.dataset?.key;

  const updateAttributes = (old, fresh) => {
    for (const { name } of [...old.attributes]) {
      if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  };

  const updateChildren = (old, fresh) => {
    const keyed = new Map([...old.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
    let place = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const known = isSame(place, child) ? place : keyed.get(child.dataset?.key);
      if (isSame(known, child)) {
        if (known === place) place = place.nextSibling;
        else old.insertBefore(known, place);
        update(known, child);
      } else {
        old.insertBefore(child, place);
      }
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  };

  const update = (old, fresh) => {
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
    } else if (old.nodeType === Node.ELEMENT_NODE) {
      updateAttributes(old, fresh);
      updateChildren(old, fresh);
    }
  };

  const refresh = async () => {
    isAsking = true;
    try {
      const response = await fetch("?fragment", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      const text = await response.text();
      const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("page");
      if (!response.ok || !fresh) {
        setProblem(`the server answers ${response.status}`);
      } else if (!isPaused && !hasSelection()) {
        update(main, fresh);
        document.title = main.dataset.title;
        updated = Date.now();
        setProblem("");
      }
    } catch {
      setProblem("the server does not answer");
    }
    isAsking = false;
    show();
    schedule(PERIOD);
  };

  const schedule = (after) => {
    clearTimeout(timer);
    if (document.hidden || isPaused || isAsking) return;
    timer = setTimeout(() => (hasSelection() ? schedule(PERIOD) : refresh()), after);
  };

  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    show();
    schedule(0);
  });
  document.addEventListener("visibilitychange", () => schedule(0));
  setInterval(show, 1000);

  pause.hidden = false;
  document.title = main.dataset.title;
  show();
  schedule(PERIOD);
})();
