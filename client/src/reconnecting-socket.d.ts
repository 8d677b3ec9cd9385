/** A URL, or a function that returns one for each attempt to connect, for example with a fresh token. */
export type UrlSource = string | URL | (() => string | URL | Promise<string | URL>);

/** What a WebSocket can send. */
export type SocketData = string | ArrayBuffer | ArrayBufferView | Blob;

export interface BackoffOptions {
  /** The longest first delay in milliseconds. It doubles with each attempt. Default: 500. */
  initial?: number;
  /** The longest delay in milliseconds. Default: 30,000. */
  max?: number;
  /** Returns a number from 0 to 1. Default: `Math.random`. */
  random?: () => number;
}

/** Delays between attempts: a random part of a ceiling that doubles each time. */
export class Backoff {
  constructor(options?: BackoffOptions);
  /** Returns the next delay in milliseconds. */
  next(): number;
  /** Starts again with the initial ceiling. */
  reset(): void;
}

export interface StreamOptions {
  /** The URL of the event stream. Default: that of the WebSocket, with `http` in place of `ws`. */
  url?: UrlSource;
  /** The types of events that carry messages. Default: `["message"]`. */
  events?: readonly string[];
  /** Whether to send cookies to another origin. Default: false. */
  withCredentials?: boolean;
  /**
   * Sends a message over HTTP while the stream is open, and returns the messages that it gets in reply.
   * Without it, messages are buffered until a WebSocket opens.
   */
  send?: (data: SocketData) => Promise<Iterable<string> | void>;
}

export interface ReconnectingSocketOptions {
  /** The delays between attempts. */
  backoff?: BackoffOptions;
  /** How long an attempt may take in milliseconds, including its URL. Default: 6,000. */
  connectTimeout?: number;
  /** The text to send to a server that is silent. `rooms.v1` has its own. Default: none. */
  ping?: string;
  /** The server's reply to `ping`. It causes no `message` event. */
  pong?: string;
  /** How many milliseconds after the last message to send a ping. Default: 5,000. */
  pingAfter?: number;
  /** How many milliseconds to wait for a message after a ping. Default: 4,000. */
  pongTimeout?: number;
  /** How many bytes may wait to be sent. Default: 1,048,576. */
  maxBufferedBytes?: number;
  /** How many messages may wait for a connection. Default: 1,000. */
  maxBufferedMessages?: number;
  /** Whether to reconnect after this close. By default, 1008 and codes from 4000 are final. */
  shouldReconnect?: (close: CloseDetails) => boolean;
  /** The event stream that replaces WebSockets where they do not work. Default: `true` with `rooms.v1`. */
  stream?: boolean | StreamOptions;
  /** The ids of the last items that the page has, by channel. */
  positions?: Iterable<readonly [channel: string, id: number]>;
}

export interface CloseDetails {
  /** The code of the server, 1006 if the connection was lost, or 1005 if there was no code. */
  readonly code: number;
  /** The reason of the server, or `timeout`. */
  readonly reason: string;
  readonly wasClean: boolean;
}

export interface OpenEvent extends Event {
  /** Whether the server sends everything that was missed. */
  readonly recovered: boolean;
}

export interface ItemEvent<T = any> extends Event {
  readonly channel: string;
  /** Rises by one with each item of the channel. */
  readonly id: number;
  readonly data: T;
}

export interface CountEvent extends Event {
  readonly channel: string;
  /** How many connections the channel has. */
  readonly count: number;
}

export interface RefetchEvent extends Event {
  /** The channel whose items are missing, or undefined if it may be any. */
  readonly channel: string | undefined;
}

export interface ConnectErrorEvent extends Event {
  /** The error of the function for the URL or of the WebSocket's constructor, if there was one. */
  readonly error?: unknown;
}

export interface SocketCloseEvent extends Event, CloseDetails {}

export interface ReconnectingSocketEventMap {
  /** An attempt to connect begins. */
  connecting: Event;
  /** The connection is open. */
  open: OpenEvent;
  /** A message of the application. */
  message: MessageEvent;
  /** An item of a room: each once, in the order of their ids. */
  item: ItemEvent;
  /** The number of connections of a channel has changed. */
  count: CountEvent;
  /** Items are missing, or this is the first connection: fetch what the page shows, or start anew. */
  refetch: RefetchEvent;
  /** The connection was lost, or an attempt failed. */
  error: ConnectErrorEvent;
  /** The connection or attempt ended. Unless `readyState` is `CLOSED`, another attempt follows. */
  close: SocketCloseEvent;
}

/** A WebSocket that reconnects and resumes. */
export class ReconnectingSocket extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  /** Connects to `url`, which may be relative. The protocol `rooms.v1` enables items and resuming. */
  constructor(url: UrlSource, protocols?: string | string[], options?: ReconnectingSocketOptions);

  /** The state, where a pause between attempts counts as `CONNECTING`. */
  readonly readyState: 0 | 1 | 2 | 3;
  /** When the next attempt begins, in milliseconds since 1970, or null if there is no pause. */
  readonly retryAt: number | null;
  /** What the connection is, or what is being tried. */
  readonly transport: "socket" | "stream";
  /** The URL of the connection or attempt; empty before the first. */
  readonly url: string;
  readonly protocol: string;
  readonly extensions: string;
  /** The bytes that wait in the buffer and in the WebSocket. */
  readonly bufferedAmount: number;
  binaryType: BinaryType;
  /** The id of the last item of each channel. */
  readonly positions: Map<string, number>;

  onconnecting: ((this: this, event: Event) => unknown) | null;
  onopen: ((this: this, event: OpenEvent) => unknown) | null;
  onmessage: ((this: this, event: MessageEvent) => unknown) | null;
  onitem: ((this: this, event: ItemEvent) => unknown) | null;
  oncount: ((this: this, event: CountEvent) => unknown) | null;
  onrefetch: ((this: this, event: RefetchEvent) => unknown) | null;
  onerror: ((this: this, event: ConnectErrorEvent) => unknown) | null;
  onclose: ((this: this, event: SocketCloseEvent) => unknown) | null;

  /**
   * Sends a message, or buffers it until the connection opens. After `close`, does nothing.
   *
   * @throws A `DOMException` called `QuotaExceededError` if the buffer is full. The message was not accepted.
   */
  send(data: SocketData): void;
  /** Closes for good, and drops the messages that were not sent. */
  close(code?: number, reason?: string): void;
  /** Connects at once and anew, also after `close`. */
  reconnect(): void;

  addEventListener<K extends keyof ReconnectingSocketEventMap>(
    type: K,
    listener: (this: ReconnectingSocket, event: ReconnectingSocketEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof ReconnectingSocketEventMap>(
    type: K,
    listener: (this: ReconnectingSocket, event: ReconnectingSocketEventMap[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | EventListenerOptions,
  ): void;
}
