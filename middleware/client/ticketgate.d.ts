/** What a page does about a close. */
export type Verdict = 'sign-in' | 'retry' | 'wait' | 'stop'

/** A close code and its reason, as CloseEvent has them. */
export interface Closed {
  readonly code: number
  readonly reason: string
}

/** Why there is no ticket. The error event and the close event of a TicketSocket have the same. */
export interface Refusal extends Closed {
  /** Seconds, from Retry-After. */
  readonly retryAfter?: number
  /** Where to sign in, from the answer's login_url. */
  readonly loginURL?: string
}

export interface Settings {
  /** Where tickets come from. Default: '/api/auth/ws-ticket'. */
  mint?: string | URL
  /**
   * How the ticket travels. 'query' (the default) is in the URL, which a browser writes to its
   * console when the handshake fails. 'protocol' is in no URL; it needs a subprotocol beside it.
   */
  carrier?: 'query' | 'protocol'
  /**
   * The path that the ticket is valid for, as the server sees it. Default: the path of the URL.
   * Behind a proxy that rewrites paths, return the rewritten one. '' is any path.
   */
  endpoint?: string | ((url: URL) => string)
  /** Of the request for a ticket. Default: 'same-origin'. */
  credentials?: RequestCredentials
  /** Of the request for a ticket; a function is called before each. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>)
  /** Called at every close whose verdict is 'sign-in'. Default: signIn. */
  signIn?: (e: Refusal) => void
}

/** Says what to do after a close. A code that is not in the table is 'wait'. */
export declare function verdict(e: Closed): Verdict

/** Leaves for loginURL, or '/login', which leads back here. */
export declare function signIn(e?: { readonly loginURL?: string }): void

/**
 * A WebSocket that gets a ticket before it opens, and is CONNECTING meanwhile. A refused mint is
 * an error event and a close event, both a CloseEvent & Refusal with the same code and reason.
 */
export declare class TicketSocket extends WebSocket {
  /** Returns a TicketSocket of other settings, for a library that takes a constructor. */
  static with(settings: Settings): typeof TicketSocket
}

/**
 * Returns url with a ticket, for one request: an EventSource, an image, a download. Rejects with
 * an Error that is a Refusal.
 */
export declare function ticketed(url: string | URL, settings?: Settings): Promise<string>

export interface ConnectOptions extends Settings {
  protocols?: string | string[]
  /** Closes the connection when it is aborted. */
  signal?: AbortSignal
  onopen?: (e: Event) => void
  onmessage?: (e: MessageEvent) => void
  /** Called at every close; the connection comes back unless the verdict says otherwise. */
  onclose?: (e: CloseEvent & Refusal) => void
}

export interface Connection {
  /** The socket of the moment; undefined between two of them. */
  readonly socket: TicketSocket | undefined
  /** Sends, or throws an InvalidStateError where no socket is open. */
  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): void
  /** Closes for good. */
  close(code?: number, reason?: string): void
}

/** Keeps a socket open, until it is closed or the verdict is to sign in or to stop. */
export declare function connect(url: string | URL, options?: ConnectOptions): Connection
