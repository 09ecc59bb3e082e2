// The page's half of ticketgate: a WebSocket that gets a ticket before it opens.
//
//   import { TicketSocket } from '/ticketgate.js'
//   const socket = new TicketSocket('/ws')
//
// It needs no build step. None of its attributes, events or messages shows a ticket.

// Captured here, so that a page may set globalThis.WebSocket = TicketSocket.
const Native = globalThis.WebSocket ?? EventTarget

const mintLimit = 30_000 // ms, for the whole exchange
const longestWait = 30_000 // ms, between two attempts of connect
const stableAfter = 5_000 // ms open, after which connect counts its attempts anew
const suspendedAfter = 180_000 // ms without a timer, after which connect replaces its socket

// What to do after a close. The doc of the Go package has the same table.
const verdicts = {
  '4401 ticket_rejected': 'retry', // it was lost on its way, or used, or late: get another
  4401: 'sign-in', // there is no session (any more)
  4403: 'stop', // the Origin, or a ticket that is bound to another path
  4400: 'stop', // the server does not understand this page
  '4429 evicted': 'stop', // a newer socket took the place
  4429: 'wait', // too many
  1013: 'wait', // it could not be decided
  1001: 'wait', // the server goes away
}

// verdict says what to do after a close: 'sign-in', 'retry', 'wait' or 'stop'.
export const verdict = ({ code, reason }) =>
  verdicts[`${code} ${reason}`] ?? verdicts[code] ?? 'wait'

// signIn goes to the sign-in page, which leads back here.
export function signIn(e) {
  if (!globalThis.location?.assign) return // a program, or a worker
  const to = new URL(e?.loginURL ?? '/login', location)
  to.searchParams.set('next', location.pathname + location.search)
  if (/^http/.test(to.protocol)) location.assign(to)
}

const settingNames = ['mint', 'carrier', 'endpoint', 'credentials', 'headers', 'signIn']

// checked refuses what is misspelt: a setting that is ignored makes a ticket weaker.
function checked(settings) {
  for (const name in settings) {
    if (!settingNames.includes(name)) throw new TypeError(`unknown setting ${name}`)
  }
  const { carrier } = settings
  if (carrier && !/^(query|protocol)$/.test(carrier)) {
    throw new TypeError(`unknown carrier ${carrier}`)
  }
  return settings
}

const fail = (name, message) => {
  throw new DOMException(message, name)
}

// base is what addresses are relative to. A program has none.
const base = () => globalThis.document?.baseURI ?? globalThis.location?.href

function parse(address) {
  address += ''
  try {
    return new URL(address, base())
  } catch {
    fail('SyntaxError', `invalid URL ${address}`)
  }
}

// boundTo returns the path that a ticket for url is valid for; '' is any.
function boundTo(url, { endpoint = url.pathname }) {
  const path = endpoint.call ? endpoint(new URL(url)) : endpoint
  if (path?.at) return path
  throw new TypeError('endpoint is no string')
}

// refusal is what a mint returns in place of a ticket, and ticketed throws.
const refusal = (code, reason, more) =>
  Object.assign(new Error(`${code} ${reason}`), { code, reason, ...more })

// ask gets a ticket, or a refusal. What is not ticketgate's own answer (a proxy's 403, a
// deployment's 404) says nothing about this page or its session.
async function ask(url, endpoint, { mint, credentials, headers }, signal) {
  headers = new Headers(headers?.call ? await headers() : headers)
  headers.set('Content-Type', 'application/json')
  const from = base() ?? url.href.replace('ws', 'http')
  const answer = await fetch(new URL(mint ?? '/api/auth/ws-ticket', from), {
    method: 'POST', credentials, headers, signal,
    redirect: 'manual', // a sign-in page gives no ticket
    body: JSON.stringify(endpoint ? { endpoint } : {}),
  })
  const { status, ok } = answer
  const { ticket, error, login_url } = await answer.json().catch(() => 0) ?? 0
  if (ok && /^[\w-]{43}$/.test(ticket)) return ticket
  const ours = typeof error === 'string' && /^[a-z_]+$/.test(error)
  const after = answer.headers.get('Retry-After') // seconds, or a date
  const code = status === 401 || !ok && status < 400 ? 4401 // a browser shows a redirect as 0
    : !ours || status < 400 || status > 499 ? 1013
      : { 403: 4403, 429: 4429 }[status] ?? 4400
  return refusal(code, ours ? error : code > 4000 ? 'unauthenticated' : 'unavailable', {
    retryAfter: (isNaN(after) ? (Date.parse(after) - Date.now()) / 1000 : +after) || undefined,
    loginURL: ours ? login_url : undefined,
  })
}

// minted is ask, within mintLimit, whatever hangs.
async function minted(url, endpoint, settings, stop) {
  let timer
  const late = new Promise((then) => timer = setTimeout(then, mintLimit))
  const asked = ask(url, endpoint, settings, stop.signal).catch(() => {})
  const result = await Promise.race([asked, late])
  clearTimeout(timer)
  stop.abort()
  return result ?? refusal(1013, 'unavailable')
}

// withTicket leaves the rest of the query as it is.
function withTicket(url, ticket) {
  url = new URL(url)
  url.search += `${url.search ? '&' : '?'}ticket=${ticket}`
  return url.href
}

// ticketed returns the address with a ticket, for one request: an EventSource, an image, a
// download. It rejects with { code, reason, retryAfter, loginURL }.
export async function ticketed(address, settings = {}) {
  const url = parse(address)
  const endpoint = boundTo(url, checked(settings))
  const ticket = await minted(url, endpoint, settings, new AbortController())
  if (ticket.at) return withTicket(url, ticket)
  if (verdict(ticket) === 'sign-in') (settings.signIn ?? signIn)(ticket)
  throw ticket
}

// closing makes an event with a close code. Node before 23 has no CloseEvent.
const closing = (type, init) => globalThis.CloseEvent
  ? new CloseEvent(type, init) : Object.assign(new Event(type), init)

// A TicketSocket has the prototype of a WebSocket and is an EventTarget: the constructor
// of a WebSocket would connect.
function Base() {
  return Reflect.construct(EventTarget, [], new.target)
}
Base.prototype = Native.prototype
Object.setPrototypeOf(Base, Native)

const types = ['open', 'message', 'error', 'close']
const own = Symbol()

export class TicketSocket extends Base {
  static [own] = {}
  #settings
  #url
  #endpoint
  #on = {}
  #stop = new AbortController()
  #opened // the browser's WebSocket, once there is a ticket. Until then:
  #state = { readyState: 0, protocol: '', extensions: '', bufferedAmount: 0, binaryType: 'blob' }

  // with returns a TicketSocket of other settings, for whatever takes a constructor.
  static with(settings) {
    settings = checked({ ...this[own], ...settings })
    return class TicketSocket extends this {
      static [own] = settings
    }
  }

  constructor(address, protocols = []) {
    super()
    if (!arguments.length) throw new TypeError('no URL')
    const settings = this.#settings = new.target[own]
    const list = (Object(protocols) === protocols && protocols[Symbol.iterator]
      ? [...protocols] : [protocols]).map((p) => p + '')
    const url = this.#url = parse(address)
    url.protocol = url.protocol.replace('http', 'ws')
    if (!/^wss?:[^#]+$/.test(url)) fail('SyntaxError', `no WebSocket URL: ${url}`)
    if (list.some((p, i) => !/^[\w!#$%&'*+.^`|~-]+$/.test(p) || list.indexOf(p) < i)) {
      fail('SyntaxError', `invalid subprotocols ${list}`)
    }
    const inProtocol = settings.carrier === 'protocol'
    if (inProtocol && !list[0]) fail('SyntaxError', "carrier 'protocol' needs a subprotocol")
    this.#endpoint = boundTo(url, settings)
    minted(url, this.#endpoint, settings, this.#stop).then((ticket) => {
      if (this.#state.readyState) return // closed meanwhile
      if (!ticket.at) return this.#refuse(ticket)
      let socket
      try {
        socket = inProtocol ? new Native(url, [...list, `ticket.${ticket}`])
          : new Native(withTicket(url, ticket), list)
      } catch { // mixed content, say
        return this.#refuse({ code: 1006, reason: '' })
      }
      socket.binaryType = this.binaryType
      for (const type of types) {
        socket.addEventListener(type, (e) => this.#dispatch(new e.constructor(type, e)))
      }
      this.#state = this.#opened = socket
    })
  }

  // refuse ends what has no connection, by an error and a close. Some libraries look at the
  // one and some at the other: a refused mint has its code in both.
  #refuse({ code, reason, retryAfter, loginURL }) {
    if (this.#state.readyState > 2) return
    this.#state.readyState = 3
    const event = (type) =>
      Object.assign(closing(type, { code, reason }), { retryAfter, loginURL })
    this.#dispatch(code > 1006 ? event('error') : new Event('error'))
    this.#dispatch(event('close'))
  }

  #dispatch(e) {
    this.dispatchEvent(e)
    if (e.type !== 'close') return
    if (verdict(e) === 'sign-in') (this.#settings.signIn ?? signIn)(e)
    if (e.code === 4403 || e.code === 4400) {
      console.error(`${e.code} ${e.reason}: ${this.url}, its ticket bound to "${this.#endpoint}"`)
    }
  }

  send(data) {
    if (!arguments.length) throw new TypeError('no data')
    if (this.#opened) return this.#opened.send(data)
    const { size } = new Blob([data])
    if (!this.readyState) fail('InvalidStateError', 'still CONNECTING')
    this.#state.bufferedAmount += size
  }

  close(code, reason = '') {
    if (this.#opened) return this.#opened.close(...arguments)
    if (code !== undefined && (code |= 0) !== 1000 && (code < 3000 || code > 4999)) {
      fail('InvalidAccessError', `invalid code ${code}`)
    }
    if (new Blob([reason]).size > 123) fail('SyntaxError', 'reason is over 123 bytes')
    if (this.readyState) return
    this.#state.readyState = 2
    this.#stop.abort()
    setTimeout(() => this.#refuse({ code: 1006, reason: '' }))
  }

  static {
    const define = (name, get, set) =>
      Object.defineProperty(this.prototype, name, { get, set, enumerable: true })
    for (const name of ['readyState', 'protocol', 'extensions', 'bufferedAmount']) {
      define(name, function () { return this.#state[name] })
    }
    define('url', function () { return this.#url.href })
    define('binaryType', function () { return this.#state.binaryType }, function (type) {
      if (/^(blob|arraybuffer)$/.test(type)) this.#state.binaryType = type + ''
    })
    // A handler keeps its place among the listeners until it is null.
    for (const type of types) {
      define(`on${type}`, function () { return this.#on[type]?.fn ?? null }, function (fn) {
        const on = this.#on[type] ??= { handleEvent: (e) => on.fn.call?.(this, e) }
        on.fn = Object(fn) === fn ? fn : null
        this[on.fn ? 'addEventListener' : 'removeEventListener'](type, on)
      })
    }
  }
}

// connect keeps a socket open: until close, or until signal is aborted, or until the
// verdict is to sign in or to stop.
export function connect(url, { protocols, signal, onopen, onmessage, onclose, ...settings } = {}) {
  const Socket = TicketSocket.with(settings)
  const done = new AbortController()
  let socket, timer, ticks, notBefore = 0, tries = 0, retried = 0, tick = Date.now()

  const again = (wait) => {
    clearTimeout(timer)
    timer = setTimeout(open, Math.min(Math.max(wait, notBefore - Date.now()), 1e9))
  }
  const open = () => {
    timer = 0
    const current = socket = new Socket(url, protocols)
    let since = Infinity
    current.onopen = (e) => {
      since = Date.now()
      onopen?.(e)
    }
    current.onmessage = (e) => socket === current && onmessage?.(e)
    current.onclose = (e) => {
      if (Date.now() - since > stableAfter) tries = retried = 0 // not at open: a refusal opens too
      if (socket === current) lost(e)
    }
  }
  const lost = (e) => {
    socket = undefined
    const next = verdict(e)
    if (next === 'stop') end()
    if (!done.signal.aborted && next !== 'sign-in') {
      notBefore = Date.now() + (e.retryAfter ?? 0) * 1000 // the server's wish, whatever wakes
      const jitter = Math.random() * Math.min(longestWait, 1000 * 2 ** tries++)
      again(next === 'retry' && !retried++ ? 0 : (e.retryAfter ?? 0) * 1000 + jitter)
    }
    onclose?.(e)
  }
  // drop gives a socket up that may be there no more.
  const drop = (reason) => {
    socket?.close()
    if (socket) lost(closing('close', { code: 1006, reason }))
  }
  const end = () => {
    done.abort()
    clearTimeout(timer)
    clearInterval(ticks)
  }
  const close = (code, reason) => {
    socket?.close(code, reason)
    end()
  }
  const wake = () => timer && again(0)
  const on = (type, fn) => globalThis.addEventListener?.(type, fn, { signal: done.signal })

  if (signal?.aborted) done.abort()
  else {
    open()
    ticks = setInterval(() => {
      if (Date.now() - tick > suspendedAfter) {
        drop('suspended')
        wake()
      }
      tick = Date.now()
    }, 30_000)
  }
  signal?.addEventListener('abort', () => close(), { signal: done.signal })
  on('online', wake)
  on('visibilitychange', () => document.hidden || wake())
  // A browser keeps a page to come back to, and its socket with it.
  on('pagehide', (e) => e.persisted && drop('pagehide'))
  on('pageshow', (e) => e.persisted && !socket && again(0))
  return {
    get socket() { return socket },
    send(data) {
      if (socket?.readyState !== 1) fail('InvalidStateError', 'not open')
      socket.send(data)
    },
    close,
  }
}
