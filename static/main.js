// Creates the parts of the page and connects their events.

import { Announcer } from "./announcer.js";
import { fetchOrder, fetchOrdersAfter, sendOverHttp } from "./api.js";
import { Badge } from "./badge.js";
import { PendingChanges, nextStatus } from "./changes.js";
import { Chime } from "./chime.js";
import { Backoff, ReconnectingSocket } from "./client/reconnecting-socket.js";
import { Feed } from "./feed.js";
import { TicketInput, setUpHelp } from "./input.js";
import { History, Orders } from "./orders.js";
import { Rail } from "./rail.js";
import { showConnection } from "./status.js";
import { View } from "./view.js";

/** The same as in components/page/src/page.rs. */
const RAIL_SIZE = 12;
const REFRESH_MS = 60_000;

const byId = (id) => document.getElementById(id);
const kitchen = byId("kitchen");
const list = byId("rail");
const olderButton = byId("older");
const newestButton = byId("newest");

/** The newest order when the user scrolled back. */
let newestSeen = null;
/** Whether to scroll back once older orders are fetched. */
let isScrollPending = false;

const orders = new Orders(RAIL_SIZE);
const history = new History(orders, fetchOrdersAfter);
const view = new View(kitchen, list);
const rail = new Rail(list, () => view.visibleRange);
const socket = new ReconnectingSocket(socketUrl, [], {
  // The host answers exactly this text by itself.
  ping: '{"event":"ping"}',
  pong: '{"event":"pong"}',
  stream: {
    url: "/api/orders/stream",
    events: ["order-received", "order-updated"],
    send: async (text) => (await sendOverHttp(JSON.parse(text))).map((message) => JSON.stringify(message)),
  },
});
const feed = new Feed(socket, orders, fetchOrdersAfter, new Backoff());
const changes = new PendingChanges(orders, sendChange, fetchOrder);
const announcer = new Announcer(byId("announcement"), byId("notice"));
const chime = new Chime(byId("chime"));
const badge = new Badge(byId("icon"));

orders.merge(rail.hydrate());
const input = new TicketInput(list, rail, view);

feed.addEventListener("change", ({ detail: added }) => {
  changes.reconcile();
  show();
  announcer.announce(added);
  if (added.length > 0) chime.ring();
});
feed.addEventListener("rejected", ({ detail: { id, status, message } }) => changes.reject(id, status, message));
changes.addEventListener("change", show);
changes.addEventListener("rejected", ({ detail: { message } }) => announcer.warn(message));

input.addEventListener("advance", ({ detail: id }) => requestChange(id, nextStatus));
input.addEventListener("cancel", ({ detail: id }) => requestChange(id, () => "cancelled"));
input.addEventListener("older", showOlder);
rail.addEventListener("render", ({ detail: added }) => {
  view.keepPosition(added);
  input.refresh(added > 0 && !view.isScrolledBack);
  if (isScrollPending && orders.size > RAIL_SIZE) {
    isScrollPending = false;
    view.scrollToOlder();
  } else if (added > 0 && !view.isScrolledBack) {
    // Drops older orders that were fetched but never scrolled to.
    orders.limit = RAIL_SIZE;
  }
  updateButtons();
});
rail.addEventListener("focusmoved", ({ detail: { from, to } }) => {
  announcer.say(`Order ${from} has left the rail: now on order ${to}`);
});

view.addEventListener("scroll", () => {
  rail.updateWindow();
  if (view.isScrolledBack && view.remaining < view.width) fetchOlder();
  updateButtons();
});
view.addEventListener("change", () => {
  newestSeen = orders.newest;
  if (!view.isScrolledBack) releaseFocus(newestButton);
  newestButton.hidden = !view.isScrolledBack;
  if (view.isScrolledBack) return;
  orders.limit = RAIL_SIZE;
  show();
});
// During a transition the rail does not have its final width.
list.addEventListener("transitionend", updateButtons);
olderButton.addEventListener("click", showOlder);
newestButton.addEventListener("click", () => view.scrollToNewest());
setUpHelp(byId("help"), byId("shortcuts"));

showConnection(byId("status"), socket);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  requestWakeLock();
  rail.updateAges();
  feed.refresh();
});
setInterval(() => {
  if (!document.hidden) rail.updateAges();
}, 1000);
setInterval(() => feed.refresh(), REFRESH_MS);
addEventListener("resize", show);
show();
requestWakeLock();

function show() {
  const shown = orders.list().map((order) => changes.apply(order));
  rail.show(shown);
  const latest = shown.slice(-RAIL_SIZE);
  badge.show(latest.filter(({ status }) => status === "received").length);
}

function updateButtons() {
  const isOldest = !history.hasMore && view.isAtEnd && rail.oldest === orders.oldest;
  if (isOldest) releaseFocus(olderButton);
  olderButton.disabled = isOldest;
  const count = view.isScrolledBack ? orders.list().filter(({ id }) => id > newestSeen).length : 0;
  newestButton.firstChild.data = count > 0 ? `${count} new` : "Newest";
}

/** A button that is about to be hidden passes the focus to the rail. */
function releaseFocus(button) {
  if (document.activeElement === button) kitchen.focus({ preventScroll: true });
}

function requestChange(id, getStatus) {
  const order = orders.get(id);
  const status = order && getStatus(changes.apply(order).status);
  if (status && changes.request(id, status)) announcer.say(`Order ${id} ${status}`);
}

async function sendChange(id, status) {
  const message = { event: "order-status", detail: { id, status } };
  try {
    if (socket.readyState === socket.OPEN && socket.transport === "socket") {
      socket.send(JSON.stringify(message));
      return;
    }
    for (const response of await sendOverHttp(message)) feed.handle(response);
  } catch {
    changes.fail(id, `order ${id} is unchanged: the kitchen cannot be reached`);
  }
}

function showOlder() {
  isScrollPending = view.isAtEnd && history.hasMore;
  if (view.remaining < view.width) fetchOlder();
  if (!isScrollPending) view.scrollToOlder();
}

async function fetchOlder() {
  try {
    if (await history.fetchMore()) show();
    else stopShowingOlder();
  } catch {
    stopShowingOlder();
    announcer.warn("older orders cannot be fetched now");
  }
}

function stopShowingOlder() {
  isScrollPending = false;
  if (!view.isScrolledBack) orders.limit = RAIL_SIZE;
}

function requestWakeLock() {
  navigator.wakeLock?.request("screen").catch(() => {});
}

/** Returns the URL of a WebSocket that resumes after the last order on the page. */
function socketUrl() {
  const { position } = feed;
  return position === null ? "/api/ws" : `/api/ws?after=${position}`;
}
