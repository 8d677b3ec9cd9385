// The page's plan: which part hears which.

import { Announcer } from "./announcer.js";
import { Stream, exchange, orderOf, ordersAfter } from "./api.js";
import { Badge } from "./badge.js";
import { Changes, onwards } from "./changes.js";
import { Chime } from "./chime.js";
import { Connection } from "./connection.js";
import { Feed } from "./feed.js";
import { Hands, helpBy } from "./hands.js";
import { Orders, Past } from "./orders.js";
import { Rail } from "./rail.js";
import { showStatus } from "./status.js";
import { View } from "./view.js";

/** How many receipts the rail holds; components/page/src/page.rs renders as many. */
const RAIL = 12;
/** How often, in ms, the service is asked for what it may not have told. */
const REFRESH = 60_000;

const byId = (id) => document.getElementById(id);
const kitchen = byId("kitchen");
const list = byId("rail");
const older = byId("older");
const newest = byId("newest");

/** The newest order that was seen before older ones were looked at. */
let seen = null;
/** Somebody wants to look back, and what there is to see is on its way. */
let wantsBack = false;

const orders = new Orders(RAIL);
const past = new Past(orders, ordersAfter);
const view = new View(kitchen, list);
const rail = new Rail(list, () => view.seen);
const connection = new Connection({
  socket: () => new WebSocket(address("/api/ws").replace(/^http/, "ws")),
  stream: () => new Stream(new EventSource(address("/api/orders/stream")), exchange),
});
const feed = new Feed(connection, orders, ordersAfter);
const changes = new Changes(orders, ask, orderOf);
const announcer = new Announcer(byId("announcement"), byId("notice"));
const chime = new Chime(byId("chime"));
const badge = new Badge(byId("icon"));

orders.fill(rail.adopt());
const hands = new Hands(list, rail, view);

feed.addEventListener("change", ({ detail: added }) => {
  changes.settle();
  show();
  announcer.announce(added);
  if (added.length > 0) chime.ring();
});
feed.addEventListener("refused", ({ detail: { id, status, message } }) => changes.refuse(id, status, message));
changes.addEventListener("change", show);
changes.addEventListener("refused", ({ detail: { message } }) => announcer.warn(message));

hands.addEventListener("onwards", ({ detail: id }) => take(id, onwards));
hands.addEventListener("cancel", ({ detail: id }) => take(id, () => "cancelled"));
hands.addEventListener("past", lookBack);
rail.addEventListener("show", ({ detail: added }) => {
  view.hold(added);
  hands.refresh(added > 0 && !view.isBack);
  if (wantsBack && orders.size > RAIL) {
    wantsBack = false;
    view.back();
  } else if (added > 0 && !view.isBack) {
    // There was room for older ones without looking back.
    orders.limit = RAIL;
  }
  showWays();
});
rail.addEventListener("handover", ({ detail: { from, to } }) => {
  announcer.say(`Order ${from} has left the rail: now on order ${to}`);
});

view.addEventListener("move", () => {
  rail.look();
  if (view.isBack && view.room < view.width) fetchOlder();
  showWays();
});
view.addEventListener("change", () => {
  seen = orders.newest;
  if (!view.isBack) keepFocus(newest);
  newest.hidden = !view.isBack;
  if (view.isBack) return;
  orders.limit = RAIL;
  show();
});
// A row that moves is not yet as long as it will be.
list.addEventListener("transitionend", showWays);
older.addEventListener("click", lookBack);
newest.addEventListener("click", () => view.forth());
helpBy(byId("help"), byId("shortcuts"));

showStatus(byId("status"), connection);
addEventListener("online", () => connection.wake());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  stayAwake();
  rail.age();
  connection.wake();
  feed.refresh();
});
setInterval(() => {
  if (!document.hidden) rail.age();
}, 1000);
setInterval(() => feed.refresh(), REFRESH);
addEventListener("resize", show);
show();
stayAwake();
connection.start();

function show() {
  const shown = orders.list().map((order) => changes.shown(order));
  rail.show(shown);
  const latest = shown.slice(-RAIL);
  badge.show(latest.filter(({ status }) => status === "received").length);
}

/** There is a way back as long as there is something there, or will be with the next frame. */
function showWays() {
  const isEnd = !past.hasMore && view.isAtEnd && rail.oldest === orders.oldest;
  if (isEnd) keepFocus(older);
  older.disabled = isEnd;
  const count = view.isBack ? orders.list().filter(({ id }) => id > seen).length : 0;
  newest.firstChild.data = count > 0 ? `${count} new` : "Newest";
}

/** A button that goes away leaves the focus to what it moved. */
function keepFocus(button) {
  if (document.activeElement === button) kitchen.focus({ preventScroll: true });
}

/** Takes the step that `step` gives for the status an order is shown in. */
function take(id, step) {
  const order = orders.get(id);
  const status = order && step(changes.shown(order).status);
  if (status && changes.take(id, status)) announcer.say(`Order ${id} ${status}`);
}

/** Asks the service for a step: in a request, unless there is a WebSocket. */
async function ask(id, status) {
  const message = { event: "order-status", detail: { id, status } };
  if (connection.kind === "socket" && connection.send(message)) return;
  try {
    for (const answer of await exchange(message)) feed.take(answer);
  } catch {
    changes.fail(id, `order ${id} is as it was: the kitchen cannot be reached`);
  }
}

/** Looks at older orders: at those that hang there, or at others once they do. */
function lookBack() {
  wantsBack = view.isAtEnd && past.hasMore;
  if (view.room < view.width) fetchOlder();
  if (!wantsBack) view.back();
}

async function fetchOlder() {
  try {
    if (await past.fetch()) show();
    else endLook();
  } catch {
    endLook();
    announcer.warn("older orders cannot be fetched now");
  }
}

function endLook() {
  wantsBack = false;
  if (!view.isBack) orders.limit = RAIL;
}

/** A screen that nobody touches stays lit, where the browser lets it. */
function stayAwake() {
  navigator.wakeLock?.request("screen").catch(() => {});
}

function address(path) {
  return new URL(path, location).href;
}
