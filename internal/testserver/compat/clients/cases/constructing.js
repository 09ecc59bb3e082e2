// The constructor and the attributes.

import { attempt, on, opened, trace } from './trace.js'

const { host } = location
const symbol = Symbol()

// Each address is tried as it is; what opens is closed at once.
const addresses = {
  'a path': '/plain', 'a relative path': 'plain', 'a path with dots': '/a/../plain/./x', 'nothing': '',
  'a query': '?x=1', 'a query with a space': '/plain?a b', 'a query of two': '/plain?a=1&b=2',
  'http': `http://${host}/plain`, 'HTTP in capitals': `HTTP://${host}/plain`, 'ws': `ws://${host}/plain`,
  'ws without a path': `ws://${host}`, 'wss': `wss://${host}/plain`, 'https': `https://${host}/plain`,
  'wss with its port': 'wss://127.0.0.1:443/x', 'ws with its port': 'ws://127.0.0.1:80/x',
  'another scheme': 'ftp://127.0.0.1/', 'mailto': 'mailto:a@example.com', 'javascript': 'javascript:1',
  'data': 'data:,x', 'blob': `blob:http://${host}/x`, 'no host': 'ws://', 'a port too large': 'ws://127.0.0.1:99999/',
  'a space in the host': 'ws://exa mple/', 'a bad IPv6': 'ws://[::1/', 'IPv6': 'ws://[::1]:9/x',
  'a fragment': '/plain#f', 'an empty fragment': '/plain#', 'a fragment of ws': `ws://${host}/plain#x`,
  'spaces around': '  /plain  ', 'a tab inside': '/pl\tain', 'letters beyond ASCII': '/plain/ü', 'a backslash': '\\plain',
  'percent': '/plain/%7e%7E', 'a password': `ws://ann:pw@${host}/plain`, 'undefined': undefined, 'null': null,
  'a number': 5, 'a URL': new URL('/plain', location), 'an object': { toString: () => '/plain' }, 'an array': ['/plain'],
  'a symbol': symbol, 'an object that throws': { toString() { throw new RangeError('x') } },
}

const lists = {
  'undefined': undefined, 'an empty string': '', 'an empty list': [], 'one': 'chat', 'a list of one': ['chat'],
  'a list of two': ['chat', 'v2'], 'the same twice': ['chat', 'chat'], 'the same in another case': ['chat', 'Chat'],
  'a space': 'a b', 'a comma': 'a,b', 'a slash': 'a/b', 'a colon': 'a:b', 'beyond ASCII': 'ü', 'DEL': '\x7f', 'a tab': '\t',
  'brackets': 'a(b)', 'every sign of a token': "!#$%&'*+-.^_`|~09azAZ", 'null': null, 'a number': 5, 'an object': {},
  'a list with undefined': [undefined], 'a list with null': [null], 'a list with an empty one': ['chat', ''],
  'a set': new Set(['chat', 'v2']), 'a list of lists': [['chat']], 'a String': new String('ab'), 'a symbol': symbol,
  'a list with a symbol': [symbol], 'true': true, 'a function': () => {},
}

const attributes = ['readyState', 'protocol', 'extensions', 'bufferedAmount', 'binaryType',
  'onopen', 'onmessage', 'onerror', 'onclose']

export const cases = {}

for (const [name, address] of Object.entries(addresses)) {
  cases[`address: ${name}`] = (S) => attempt(() => {
    const socket = new S(address)
    const { url, readyState } = socket
    socket.close()
    return [url, readyState]
  })
}

for (const [name, list] of Object.entries(lists)) {
  cases[`subprotocols: ${name}`] = (S, u) => attempt(() => {
    const socket = new S(u(), list)
    socket.close()
    return socket.protocol
  })
}

for (const name of attributes) {
  cases[`attribute ${name}: at first, open, closed`] = async (S, u) => {
    const socket = new S(u())
    const seen = [socket[name]]
    await on(socket, 'open')
    seen.push(socket[name])
    socket.close()
    seen.push(socket[name])
    await on(socket, 'close')
    return [...seen, socket[name]]
  }
  cases[`attribute ${name}: set in strict mode`] = (S, u) => {
    const socket = new S(u())
    socket.close()
    return attempt(() => {
      socket[name] = 'x'
      return socket[name]
    })
  }
  cases[`attribute ${name}: of something else`] = (S) => attempt(() => S.prototype[name])
}

Object.assign(cases, {
  'no arguments': (S) => attempt(() => new S()),
  'without new': (S, u) => attempt(() => S(u())),
  'constants of the class': (S) => [S.CONNECTING, S.OPEN, S.CLOSING, S.CLOSED],
  'constants of an instance': (S) => ['CONNECTING', 'OPEN', 'CLOSING', 'CLOSED'].map((name) => S.prototype[name]),
  'a constant set': (S) => attempt(() => { S.OPEN = 7 }),
  'instanceof': (S, u) => {
    const socket = new S(u())
    socket.close()
    return [socket instanceof S, socket instanceof WebSocket, socket instanceof EventTarget, typeof socket]
  },
  'the class in a word': (S) => Object.prototype.toString.call(S.prototype),
  'as JSON': (S, u) => {
    const socket = new S(u())
    socket.close()
    return [JSON.stringify(socket), String(socket), Object.keys(socket)]
  },
  'for in': (S, u) => {
    const socket = new S(u())
    socket.close()
    const names = []
    for (const name in socket) names.push(name)
    return names.sort()
  },
  'length of the constructor': (S) => S.length,
  'name of the constructor': (S) => S.name,
  'a method of something else': (S) => [attempt(() => S.prototype.close.call({})), attempt(() => S.prototype.send.call({}, 'x'))],
  'a class of its own': async (S, u) => {
    class Mine extends S {
      get twice() { return this.url + this.url }
    }
    const socket = await opened(Mine, u())
    socket.close()
    return [socket instanceof Mine, socket.twice.length === 2 * socket.url.length, socket.constructor === Mine]
  },
  'structuredClone': (S, u) => {
    const socket = new S(u())
    socket.close()
    return attempt(() => structuredClone(socket))
  },
  'an own property': (S, u) => {
    const socket = new S(u())
    socket.close()
    socket.mine = 5
    return [socket.mine, Object.keys(socket)]
  },
  'subprotocol: the first is chosen': async (S, u) => trace(closing(await opened(S, u({ pick: 'chat' }), ['chat', 'v2']))),
  'subprotocol: the second is chosen': async (S, u) => {
    const socket = await opened(S, u({ pick: 'v2' }), ['chat', 'v2'])
    socket.close()
    const then = socket.protocol
    await on(socket, 'close')
    return [then, socket.protocol]
  },
  'subprotocol: none is chosen': (S, u) => trace(new S(u(), ['chat', 'v2'])).constructor.name,
  'subprotocol: one that nobody asked for': (S, u) => trace(new S(u({ do: 'protocol' }), ['chat'])),
  'subprotocol: one, where nobody asked': (S, u) => trace(new S(u({ do: 'protocol' }))),
  'url keeps its query': async (S, u) => {
    const socket = await opened(S, u({ x: 'a b', y: 'ü' }))
    socket.close()
    return socket.url.split('?')[1]
  },
})

function closing(socket) {
  socket.close()
  return socket
}
