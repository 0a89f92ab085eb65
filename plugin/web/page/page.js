"use strict";
// Keeps the page up to date: asks for it again while it is looked at, and exchanges what changed.
(() => {
  const every = 5000;
  const note = document.getElementById("note");
  let tag = null;
  let ahead = Date.now() / 1000 - Number(document.getElementById("live").dataset.now);
  let timer;

  const say = (text) => {
    if (note.textContent !== text) note.textContent = text;
  };

  const age = (seconds) => {
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]])
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
    return seconds < 5 ? "just now" : `${Math.floor(seconds / 5) * 5} s ago`;
  };

  const growOld = () => {
    const now = Date.now() / 1000 - ahead;
    for (const time of document.querySelectorAll("time[data-at]")) {
      const text = age(now - Number(time.dataset.at));
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const summary = (root) => root.querySelector("#summary").textContent;

  // The state of the page that is the reader's own (focus, an open sheet) survives the exchange.
  const take = (html) => {
    const parsed = new DOMParser().parseFromString(html, "text/html");
    const fresh = parsed.getElementById("live");
    if (!fresh) throw new Error("not the status page");
    const old = document.getElementById("live");
    ahead = Date.now() / 1000 - Number(fresh.dataset.now);
    const focused = document.activeElement && document.activeElement.id;
    const open = old.querySelector("[popover]:popover-open");
    const scrolled = open ? open.scrollTop : 0;
    const changed = summary(old) !== summary(fresh);
    document.title = parsed.title;
    old.replaceWith(document.adoptNode(fresh));
    const again = open && document.getElementById(open.id);
    if (again) {
      again.showPopover();
      again.scrollTop = scrolled;
    }
    const target = focused && document.getElementById(focused);
    if (target && target !== document.activeElement) target.focus({ preventScroll: true });
    if (changed) say(summary(document));
  };

  const look = async () => {
    try {
      const answer = await fetch(location.pathname, { cache: "no-cache", signal: AbortSignal.timeout(every * 2) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const html = await answer.text();
      if (tag === null || answer.headers.get("etag") !== tag) take(html);
      tag = answer.headers.get("etag");
      if (document.documentElement.classList.contains("stale")) say("");
      document.documentElement.classList.remove("stale");
    } catch (error) {
      document.documentElement.classList.add("stale");
      say("The daemon does not answer. What is shown is what it said last.");
    }
    growOld();
  };

  const schedule = () => {
    clearTimeout(timer);
    if (document.hidden) return;
    timer = setTimeout(() => look().finally(schedule), every);
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else look().finally(schedule);
  });
  schedule();
})();
