// Events: which, in which order, and who is told.

import { attempt, closed, on, opened, sleep, trace } from './trace.js'

const handlers = {
  'a function': () => {}, 'null': null, 'undefined': undefined, 'a number': 5, 'a string': 'x', 'an object': {},
  'an object with handleEvent': { handleEvent() {} }, 'a symbol': Symbol(), 'a class': class {},
}

const codes = [1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4400, 4401, 4403, 4429, 4999]
const reasons = { none: '', ASCII: 'bye', 'beyond ASCII': 'für 世界 🎟', 'of 123 bytes': 'x'.repeat(123) }
const spoilt = ['drop', 'reset', 'no-code', 'bad-utf8', 'bad-opcode', 'bad-mask', 'bad-close', 'fragments', 'cut-frame',
  'bad-accept', 'extension', 'messages', 'talk-on']

export const cases = {}

for (const [name, handler] of Object.entries(handlers)) {
  cases[`handler: ${name}`] = (S, u) => {
    const socket = new S(u())
    socket.close()
    return attempt(() => {
      socket.onmessage = handler
      return socket.onmessage === handler ? 'the same' : String(socket.onmessage)
    })
  }
}
for (const code of codes) cases[`the server closes with ${code}`] = (S, u) => trace(new S(u({ do: 'close', code, reason: 'why' })))
for (const [name, reason] of Object.entries(reasons)) {
  cases[`the server closes with a reason: ${name}`] = (S, u) => trace(new S(u({ do: 'close', code: 4000, reason })))
}
for (const name of spoilt) cases[`the server: ${name}`] = (S, u) => trace(new S(u({ do: name })))
for (const status of [200, 302, 400, 401, 403, 404, 426, 500, 503]) {
  cases[`the handshake is refused with ${status}`] = (S, u) => trace(new S(u({ do: 'refuse', status })))
}

// local has a socket that never connects, for what concerns no server.
const local = (S, u) => {
  const socket = new S(u({ do: 'hang' }))
  setTimeout(() => socket.close(), 50)
  return socket
}

Object.assign(cases, {
  'open, a message, closed by the page': async (S, u) => {
    const socket = new S(u())
    const seen = trace(socket)
    await on(socket, 'open')
    socket.send('hello')
    await on(socket, 'message')
    socket.close(1000, 'thanks')
    return seen
  },
  'nothing happens in the task of the constructor': async (S, u) => {
    const seen = []
    const socket = new S(u())
    for (const type of ['open', 'error', 'close']) socket.addEventListener(type, () => seen.push(type))
    await null
    seen.push('after a microtask')
    await on(socket, 'open')
    socket.close()
    return seen
  },
  'nobody can reach the server': (S) => trace(new S('ws://127.0.0.1:9/')),
  'handlers and listeners, in the order of their coming': async (S, u) => {
    const seen = []
    const socket = new S(u())
    socket.addEventListener('open', () => seen.push(1))
    socket.onopen = () => seen.push(2)
    socket.addEventListener('open', () => seen.push(3))
    await on(socket, 'open')
    socket.close()
    return seen
  },
  'a handler that is replaced keeps its place': async (S, u) => {
    const seen = []
    const socket = new S(u())
    socket.onopen = () => seen.push('never')
    socket.addEventListener('open', () => seen.push(2))
    socket.onopen = () => seen.push(1)
    await on(socket, 'open')
    socket.close()
    return seen
  },
  'a handler that was null goes to the end': async (S, u) => {
    const seen = []
    const socket = new S(u())
    socket.onopen = () => seen.push('never')
    socket.addEventListener('open', () => seen.push(1))
    socket.onopen = null
    socket.onopen = () => seen.push(2)
    await on(socket, 'open')
    await null
    socket.close()
    return seen
  },
  'a handler that is an object is not called': async (S, u) => {
    let called = false
    const socket = new S(u())
    socket.onopen = { handleEvent() { called = true } }
    await on(socket, 'open')
    socket.close()
    return called
  },
  'a handler that is taken away in an event': async (S, u) => {
    const seen = []
    const socket = local(S, u)
    socket.addEventListener('x', () => { socket.onopen = null })
    socket.addEventListener('open', () => { socket.onopen = null })
    socket.onopen = () => seen.push('never')
    socket.dispatchEvent(new Event('open'))
    return [seen, socket.onopen]
  },
  'this, and what a handler gets': async (S, u) => {
    const socket = new S(u())
    const seen = new Promise((resolve) => {
      socket.onopen = function (...args) {
        resolve([this === socket, args.length, args[0].target === socket, args[0].srcElement === socket, args[0].eventPhase,
          args[0].composedPath().length, args[0].returnValue, args[0].defaultPrevented])
      }
    })
    await seen
    socket.close()
    return seen
  },
  'an event when it is over': async (S, u) => {
    const socket = new S(u())
    const e = await on(socket, 'open')
    socket.close()
    await sleep(0)
    return [e.target === socket, e.currentTarget, e.eventPhase, e.composedPath().length]
  },
  'a listener that is an object': async (S, u) => {
    const socket = local(S, u)
    const listener = { n: 0, handleEvent(e) { this.n += e.currentTarget === socket ? 1 : 100 } }
    socket.addEventListener('open', listener)
    socket.dispatchEvent(new Event('open'))
    socket.removeEventListener('open', listener)
    socket.dispatchEvent(new Event('open'))
    return listener.n
  },
  'a listener twice, once, and until a signal': async (S, u) => {
    const seen = []
    const socket = local(S, u)
    const twice = () => seen.push('twice'), until = new AbortController()
    socket.addEventListener('x', twice)
    socket.addEventListener('x', twice)
    socket.addEventListener('x', () => seen.push('once'), { once: true })
    socket.addEventListener('x', () => seen.push('until'), { signal: until.signal })
    socket.dispatchEvent(new Event('x'))
    until.abort()
    socket.dispatchEvent(new Event('x'))
    return seen
  },
  'a listener that comes, and one that goes, in an event': async (S, u) => {
    const seen = []
    const socket = local(S, u)
    const goes = () => seen.push('gone')
    socket.addEventListener('x', () => {
      socket.removeEventListener('x', goes)
      socket.addEventListener('x', () => seen.push('new'))
    }, { once: true })
    socket.addEventListener('x', goes)
    socket.dispatchEvent(new Event('x'))
    socket.dispatchEvent(new Event('x'))
    return seen
  },
  'stopImmediatePropagation': async (S, u) => {
    const seen = []
    const socket = new S(u())
    socket.addEventListener('open', (e) => { seen.push(1); e.stopImmediatePropagation() })
    socket.onopen = () => seen.push('never')
    await new Promise((resolve) => {
      const poll = setInterval(() => seen.length && resolve(clearInterval(poll)), 5)
    })
    socket.close()
    return seen
  },
  'capture and bubble': async (S, u) => {
    const seen = []
    const socket = local(S, u)
    socket.addEventListener('x', () => seen.push('bubble'))
    socket.addEventListener('x', () => seen.push('capture'), true)
    socket.dispatchEvent(new Event('x'))
    return seen
  },
  'an event of the page': async (S, u) => {
    const socket = local(S, u)
    const seen = []
    socket.onmessage = (e) => seen.push(e.data, e.isTrusted)
    socket.onclose = (e) => seen.push(e.code, socket.readyState)
    const sent = [socket.dispatchEvent(new MessageEvent('message', { data: 5 })),
      socket.dispatchEvent(new CloseEvent('close', { code: 4000 }))]
    socket.onclose = null
    return [...seen, ...sent, socket.readyState]
  },
  'dispatchEvent of no event': (S, u) => {
    const socket = local(S, u)
    return [attempt(() => socket.dispatchEvent({})), attempt(() => socket.dispatchEvent())]
  },
  'addEventListener of no listener': (S, u) => {
    const socket = local(S, u)
    return [attempt(() => socket.addEventListener('x', null)), attempt(() => socket.addEventListener('x', 5)), attempt(() => socket.addEventListener('x'))]
  },
  'a listener throws': async (S, u) => {
    const reported = []
    const report = (e) => {
      if (e.error !== thrown) return // of another case
      reported.push(e.message)
      e.preventDefault()
    }
    const thrown = new Error('on purpose')
    addEventListener('error', report)
    const socket = new S(u())
    const seen = []
    socket.addEventListener('open', () => { throw thrown })
    socket.onopen = () => seen.push('goes on')
    await on(socket, 'open')
    await sleep(0)
    removeEventListener('error', report)
    socket.close()
    return [...seen, ...reported]
  },
  'a handler returns false': async (S, u) => {
    const socket = new S(u())
    socket.onopen = () => false
    const e = await on(socket, 'open')
    socket.close()
    return [e.defaultPrevented, e.cancelable]
  },
  'isTrusted': async (S, u) => {
    const socket = new S(u())
    const e = await on(socket, 'open')
    socket.close()
    return e.isTrusted
  },
  'microtasks between two listeners': async (S, u) => {
    const seen = []
    const socket = new S(u())
    socket.addEventListener('open', () => { seen.push(1); Promise.resolve().then(() => seen.push('microtask')) })
    socket.addEventListener('open', () => seen.push(2))
    await on(socket, 'open')
    await sleep(0)
    socket.close()
    return seen
  },
  'a handler that comes with open receives the first message': async (S, u) => {
    const socket = await opened(S, u({ do: 'talk-on' }))
    const { data } = await on(socket, 'message')
    socket.close()
    return data
  },
  'a hundred messages in order': async (S, u) => {
    const socket = await opened(S, u())
    const seen = []
    socket.onmessage = ({ data }) => seen.push(data)
    for (let i = 0; i < 100; i++) socket.send(i)
    while (seen.length < 100) await on(socket, 'message')
    socket.close()
    return seen.join()
  },
  'a ping is the browser’s to answer': async (S, u) => {
    const socket = await opened(S, u({ do: 'ping' }))
    const seen = trace(socket)
    socket.send('x')
    await on(socket, 'message')
    socket.close()
    return seen
  },
  'no event after close': async (S, u) => {
    const socket = await closed(S, u())
    const seen = []
    for (const type of ['open', 'message', 'error', 'close']) socket.addEventListener(type, () => seen.push(type))
    socket.close()
    await sleep(50)
    return seen
  },
  'the server is told to close': async (S, u) => {
    const socket = await opened(S, u())
    const seen = trace(socket)
    socket.send('close 4001 as you wish')
    return seen
  },
})
