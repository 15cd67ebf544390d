"use strict";
/* A listener's way through the trials. `state` is all that is kept; the page is drawn from it. */
const content = JSON.parse(document.getElementById("content").textContent);
const slot = "ttt-listening-" + content.page;
const find = (id) => document.getElementById(id);
const trials = new Map(content.trials.map((each) => [each.trial, each]));

const below = (n) => {
  /* A whole number below n, from the browser's own source of randomness, without a bias. */
  const most = Math.floor(2 ** 32 / n) * n, drawn = new Uint32Array(1);
  do crypto.getRandomValues(drawn); while (drawn[0] >= most);
  return drawn[0] % n;
};
const shuffled = (items) => {
  const found = [...items];
  for (let k = found.length - 1; k > 0; k--) {
    const other = below(k + 1);
    [found[k], found[other]] = [found[other], found[k]];
  }
  return found;
};
const fresh = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  const order = shuffled(trials.keys());
  const sides = {};
  for (const trial of order) sides[trial] = shuffled(Object.keys(trials.get(trial).versions));
  return {
    listener: [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
    name: "", order, sides, answers: {}, at: 0, begun: false, finished: false,
  };
};

let kept = true;
const load = () => {
  try {
    const found = JSON.parse(localStorage.getItem(slot));
    return found || fresh();
  } catch {
    kept = false;
    return fresh();
  }
};
const keep = () => {
  try {
    localStorage.setItem(slot, JSON.stringify(state));
  } catch {
    kept = false;
  }
};
let state = load();

/* Sounds. Both versions of a trial are at hand, so that one goes on where the other was. */
let sounds = [], playing = null, heard = [false, false];
const trialNow = () => state.order[state.at];
const open = () => {
  close();
  heard = [false, false];
  const trial = trials.get(trialNow());
  sounds = state.sides[trialNow()].map((version, side) => {
    const bytes = Uint8Array.from(atob(trial.versions[version]), (c) => c.charCodeAt(0));
    const sound = new Audio(URL.createObjectURL(new Blob([bytes], { type: "audio/flac" })));
    sound.loop = true;
    sound.addEventListener("playing", () => {
      if (sounds[side] !== sound) return; /* Of a trial that was left meanwhile. */
      heard[side] = true;
      if (heard[0] && heard[1]) say("");
      draw();
    });
    return sound;
  });
};
const close = () => {
  stop();
  for (const sound of sounds) URL.revokeObjectURL(sound.src);
  sounds = [];
};
const stop = () => {
  for (const sound of sounds) sound.pause();
  playing = null;
};
const play = (side) => {
  const from = playing === null || playing === side ? 0 : sounds[playing].currentTime;
  stop();
  playing = side;
  sounds[side].currentTime = from;
  sounds[side].play().catch((error) => {
    if (error.name !== "AbortError") say("This browser cannot play the sound: " + error.message);
  });
  draw();
};

/* What a listener can do. */
const say = (words) => { find("status").textContent = words; };
const answer = (side) => {
  if (!heard[0] || !heard[1]) {
    const missing = [0, 1].filter((each) => !heard[each]).map((each) => each + 1);
    say("Listen to " + missing.join(" and ") + " before you answer.");
    return;
  }
  const trial = trialNow(), [first, second] = state.sides[trial];
  state.answers[trial] = { first, second, preferred: side === null ? null : [first, second][side] };
  go(state.at + 1);
};
const go = (place) => {
  state.at = Math.max(0, place);
  state.finished = state.at >= state.order.length;
  keep();
  show();
};
const back = () => { if (state.at > 0) go(state.at - 1); };
const finish = () => { state.finished = true; keep(); show(); };
const goOn = () => {
  const open = state.order.findIndex((trial) => !(trial in state.answers));
  go(open === -1 ? state.order.length - 1 : open);
};
const result = () => ({
  format: content.format, format_version: content.format_version, page: content.page,
  listener: state.listener, name: state.name,
  answers: state.order.filter((trial) => trial in state.answers)
    .map((trial) => ({ trial, ...state.answers[trial] })),
});
const text = () => JSON.stringify(result(), null, 1) + "\n";
const save = () => {
  const link = document.createElement("a");
  const name = state.name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  link.href = URL.createObjectURL(new Blob([text()], { type: "application/json" }));
  link.download = "listening-" + (name || state.listener) + ".json";
  link.click();
  find("saved").textContent = "Saved as " + link.download + " where this browser keeps downloads.";
};
const next = () => {
  if (!confirm("Begin anew for another listener? Answers that were not saved are lost.")) return;
  state = fresh();
  keep();
  find("name").value = "";
  find("saved").textContent = "";
  show();
};

/* The page. */
const show = () => {
  const done = state.begun && state.finished;
  find("start").hidden = state.begun;
  find("trial").hidden = !state.begun || done;
  find("done").hidden = !done;
  close();
  if (!state.begun) return find("name").focus();
  const answered = Object.keys(state.answers).length, all = state.order.length;
  if (done) {
    find("thanks").textContent = "Thank you: " + answered + " of " + all + " answered";
    find("text").textContent = text();
    find("save").disabled = answered === 0;
    find("go-on").textContent = answered < all ? "Go on" : "Back to the last clip";
    return find(answered ? "save" : "thanks").focus();
  }
  open();
  find("place").textContent = "Clip " + (state.at + 1) + " of " + all;
  find("progress").max = all;
  find("progress").value = answered;
  const before = state.answers[trialNow()];
  say(kept ? (before ? "You answered this one; another answer replaces it." : "")
    : "This browser keeps nothing: do not close or reload the page before you have saved.");
  draw();
  find("place").focus();
};
const draw = () => {
  const before = state.answers[trialNow()], sides = state.sides[trialNow()];
  for (const side of [0, 1]) {
    find("play-" + side).setAttribute("aria-pressed", String(playing === side));
    find("heard-" + side).textContent =
      playing === side ? "playing" : heard[side] ? "heard" : "not heard yet";
    find("answer-" + side).setAttribute(
      "aria-pressed", String(Boolean(before) && before.preferred === sides[side]));
  }
  find("answer-none").setAttribute("aria-pressed", String(Boolean(before) && before.preferred === null));
  find("back").disabled = state.at === 0;
};

const keys = {
  1: () => play(0), 2: () => play(1), 0: () => { stop(); draw(); },
  ArrowLeft: () => answer(0), ArrowRight: () => answer(1), ArrowDown: () => answer(null),
  b: back, B: back,
};
document.addEventListener("keydown", (event) => {
  if (find("trial").hidden || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
find("start").addEventListener("submit", (event) => {
  event.preventDefault();
  state.name = find("name").value.trim();
  state.begun = true;
  go(0);
});
for (const side of [0, 1]) {
  find("play-" + side).addEventListener("click", () => (playing === side ? (stop(), draw()) : play(side)));
  find("answer-" + side).addEventListener("click", () => answer(side));
}
const clicks = {
  "answer-none": () => answer(null), stop: keys[0], back, finish, save, "go-on": goOn, next,
};
for (const [id, act] of Object.entries(clicks)) find(id).addEventListener("click", act);
show();
