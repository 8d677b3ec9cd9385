// The page's plan: which part hears which.

import { Announcer } from "./announcer.js";
import { exchange, orderOf, ordersAfter } from "./api.js";
import { Badge } from "./badge.js";
import { Changes } from "./changes.js";
import { Chime } from "./chime.js";
import { Connection } from "./connection.js";
import { Feed } from "./feed.js";
import { Hands } from "./hands.js";
import { helpBy } from "./help.js";
import { Notice } from "./notice.js";
import { Orders } from "./orders.js";
import { Rail } from "./rail.js";
import { showStatus } from "./status.js";
import { Stream } from "./stream.js";
import { View } from "./view.js";
import { onwards } from "./workflow.js";

/** How many receipts the rail holds; components/page/src/page.rs renders as many. */
const RAIL = 12;
/** How many it holds at most while older ones are looked at. */
const RAIL_BACK = 240;
/** How often, in ms, the service is asked for what it may not have told. */
const REFRESH = 60_000;
/** The first id there can be. */
const FIRST = 100;

const byId = (id) => document.getElementById(id);
const list = byId("rail");

const orders = new Orders(RAIL);
const rail = new Rail(list);
const view = new View(byId("kitchen"), list);
const connection = new Connection({
  socket: () => new WebSocket(address("/api/ws").replace(/^http/, "ws")),
  stream: () => new Stream(new EventSource(address("/api/orders/stream")), exchange),
});
const feed = new Feed(connection, orders, ordersAfter);
const changes = new Changes(orders, ask, orderOf);
const announcer = new Announcer(byId("announcement"));
const notice = new Notice(byId("notice"));
const chime = new Chime(byId("chime"));
const badge = new Badge(byId("icon"));

orders.fill(rail.adopt());
const hands = new Hands(list, rail);

feed.addEventListener("change", ({ detail: added }) => {
  changes.settle();
  show();
  announcer.announce(added);
  if (added.length > 0) chime.ring();
});
feed.addEventListener("refused", ({ detail: { id, status, message } }) => changes.refuse(id, status, message));
changes.addEventListener("change", show);
changes.addEventListener("refused", ({ detail: { message } }) => notice.show(message));

hands.addEventListener("onwards", ({ detail: id }) => take(id, onwards));
hands.addEventListener("cancel", ({ detail: id }) => take(id, () => "cancelled"));
hands.addEventListener("past", () => view.back());
rail.onshow((added) => {
  view.hold(added);
  hands.refresh();
  showWays();
});

view.addEventListener("move", showWays);
view.addEventListener("change", () => {
  orders.limit = view.isBack ? RAIL_BACK : RAIL;
  byId("newest").hidden = !view.isBack;
  if (!view.isBack) show();
});
view.addEventListener("older", fetchOlder);
byId("older").addEventListener("click", () => view.back());
byId("newest").addEventListener("click", () => view.forth());
helpBy(byId("help"), byId("shortcuts"));

showStatus(byId("status"), connection);
addEventListener("online", () => connection.wake());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  rail.age();
  connection.wake();
  feed.refresh();
});
setInterval(() => {
  if (!document.hidden) rail.age();
}, 1000);
setInterval(() => feed.refresh(), REFRESH);
addEventListener("resize", showWays);
show();
connection.start();

function show() {
  const shown = orders.list().map((order) => changes.shown(order));
  rail.show(shown);
  badge.show(shown.filter(({ status }) => status === "received").length);
}

/** There is a way back as long as there is something there. */
function showWays() {
  const hasOlder = orders.oldest !== null && orders.oldest > FIRST;
  byId("older").disabled = !hasOlder && view.room < 1;
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

let isFetching = false;

async function fetchOlder() {
  const { oldest } = orders;
  if (isFetching || oldest === null || oldest <= FIRST) return;
  isFetching = true;
  try {
    const older = await ordersAfter(Math.max(oldest - 1 - RAIL, 0), RAIL);
    // Of those that are too old to be kept, the answer has others instead.
    orders.extend(older.filter(({ id }) => id < oldest));
    show();
  } catch {
    notice.show("older orders cannot be fetched now");
  } finally {
    isFetching = false;
  }
}

function address(path) {
  return new URL(path, location).href;
}
