// Updates the page every second while it is visible.

import { getJson, getText, hasToken, setToken } from "./api.js";
import { Channels } from "./channels.js";
import { byId, duration, setText } from "./dom.js";
import { Figures } from "./figures.js";
import { Log } from "./log.js";
import { Sessions } from "./sessions.js";
import { updateHosts, updateTimers } from "./timers.js";

const INTERVAL_MS = 1000;

const figures = new Figures();
const channels = new Channels();
const sessions = new Sessions();
const log = new Log();
const pause = byId("pause");
const login = byId("login");

let isPaused = false;
let wake = () => {};

function showState(state) {
  byId("state").dataset.state = state;
  setText(byId("state"), state);
}

async function update() {
  const [status, metrics] = await Promise.all([getJson("/status/"), getText("/metrics")]);
  setText(byId("version"), status.version);
  setText(byId("uptime"), duration(status.uptime));
  figures.update(metrics);
  updateTimers(status);
  updateHosts(status);
  await Promise.all([channels.update(), sessions.update(), log.update()]);
  byId("sign-out").hidden = !hasToken();
}

/** Asks for a token, and waits until there is one. */
async function signIn(reason) {
  setText(byId("login-error"), hasToken() ? reason : "");
  if (!login.open) login.showModal();
  byId("login-token").focus();
  showState("signed out");
  await new Promise((resolve) => (wake = resolve));
}

async function run() {
  for (;;) {
    if (!isPaused && !document.hidden) {
      try {
        await update();
        if (login.open) login.close();
        if (!isPaused) showState("live");
      } catch (error) {
        if (error.status === 401) {
          await signIn(error.message);
          continue;
        }
        // A host that is starting or has been restarted serves again soon.
        showState(error.status === 503 ? "starting" : "offline");
      }
    }
    await new Promise((resolve) => {
      wake = resolve;
      if (!isPaused && !document.hidden) setTimeout(resolve, INTERVAL_MS);
    });
  }
}

pause.addEventListener("click", () => {
  isPaused = !isPaused;
  pause.setAttribute("aria-pressed", String(isPaused));
  if (isPaused) showState("paused");
  else wake();
});

document.addEventListener("visibilitychange", () => wake());
byId("channels-prefix").addEventListener("input", () => wake());

byId("sign-out").addEventListener("click", () => {
  setToken(null);
  channels.unfollow();
  // Nothing of what was shown remains.
  location.reload();
});

login.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("login-token").value.trim());
  byId("login-token").value = "";
  wake();
});

// Without a token, there is nothing to show.
login.addEventListener("cancel", (event) => event.preventDefault());

run();
