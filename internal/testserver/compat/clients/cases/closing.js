// close(), with every kind of argument, in every state.

import { attempt, closed, on, opened, sleep, trace } from './trace.js'

const args = {
  'nothing': [], '1000': [1000], '3000': [3000], '4999': [4999], '1000 and a reason': [1000, 'bye'], '4000 and 123 bytes': [4000, 'x'.repeat(123)],
  'only a reason': [undefined, 'bye'], 'undefined twice': [undefined, undefined], '999': [999], '1001': [1001], '1005': [1005], '1006': [1006],
  '1015': [1015], '2999': [2999], '5000': [5000], '65535': [65535], '66536': [66536], '-1': [-1], '0': [0], 'NaN': [NaN], 'Infinity': [Infinity],
  'null': [null], '"1000"': ['1000'], '"x"': ['x'], 'true': [true], '999.6': [999.6], '1000.4': [1000.4], '4999.4': [4999.4], '4999.6': [4999.6],
  'an object': [{}], 'an object of 4000': [{ valueOf: () => 4000 }], 'a symbol': [Symbol()], '124 bytes': [1000, 'x'.repeat(124)],
  '62 letters of two bytes': [1000, 'ü'.repeat(62)], '61 letters of two bytes': [1000, 'ü'.repeat(61)], 'null as reason': [1000, null],
  'a number as reason': [1000, 5], 'a symbol as reason': [1000, Symbol()], 'a bad code and a bad reason': [1, 'x'.repeat(124)],
  '41 emoji and a letter': [1000, '🎟'.repeat(30) + 'abc'], 'half an emoji': [1000, '\ud83c'],
}

export const cases = {}

for (const [name, list] of Object.entries(args)) {
  cases[`close(${name}), connecting`] = async (S, u) => {
    const socket = new S(u({ do: 'hang' }))
    const seen = trace(socket)
    const result = attempt(() => socket.close(...list))
    const state = socket.readyState
    if (state === 0) socket.close()
    return [result, state, await seen]
  }
  cases[`close(${name}), open`] = async (S, u) => {
    const socket = await opened(S, u())
    const seen = trace(socket)
    const result = attempt(() => socket.close(...list))
    const state = socket.readyState
    if (state === 1) socket.close()
    return [result, state, await seen]
  }
}

for (const name of ['nothing', '1000', '1001', 'null', '124 bytes', 'a bad code and a bad reason']) {
  cases[`close(${name}), closed`] = async (S, u) => {
    const socket = await closed(S, u())
    return [attempt(() => socket.close(...args[name])), socket.readyState]
  }
  cases[`close(${name}), closing`] = async (S, u) => {
    const socket = await opened(S, u())
    const seen = trace(socket)
    socket.close(4000, 'first')
    return [attempt(() => socket.close(...args[name])), socket.readyState, await seen]
  }
  cases[`close(${name}), closing before there was a connection`] = async (S, u) => {
    const socket = new S(u({ do: 'hang' }))
    const seen = trace(socket)
    socket.close()
    return [attempt(() => socket.close(...args[name])), socket.readyState, await seen]
  }
}

Object.assign(cases, {
  'close before there is a connection, some time later': async (S, u) => {
    const socket = new S(u({ do: 'hang' }))
    const seen = trace(socket)
    await sleep(100)
    socket.close(4000, 'late')
    return [socket.readyState, await seen]
  },
  'close in a microtask': async (S, u) => {
    const socket = new S(u())
    const seen = trace(socket)
    await null
    socket.close()
    return [socket.readyState, await seen]
  },
  'close in onopen': (S, u) => {
    const socket = new S(u())
    socket.onopen = () => socket.close(4000, 'at once')
    return trace(socket)
  },
  'close in onmessage': async (S, u) => {
    const socket = new S(u({ do: 'messages' }))
    socket.onmessage = () => socket.close(4000, 'enough')
    const seen = await trace(socket)
    return [seen[0], seen.filter((s) => s.startsWith('close')).length, socket.readyState]
  },
  'close in onerror': (S, u) => {
    const socket = new S(u({ do: 'refuse', status: 500 }))
    socket.onerror = () => socket.close(4000, 'never')
    return trace(socket)
  },
  'close in onclose': (S, u) => {
    const socket = new S(u({ do: 'close', code: 4000 }))
    socket.onclose = () => socket.close(4000, 'never')
    return trace(socket)
  },
  'messages on their way when the page closes': async (S, u) => {
    const socket = await opened(S, u({ do: 'talk-on' }))
    const seen = trace(socket)
    await on(socket, 'message')
    socket.close()
    return seen
  },
  'a server that does not answer the close': async (S, u) => {
    const socket = await opened(S, u({ do: 'unread' }))
    const seen = trace(socket)
    socket.close(4000, 'anybody?')
    await sleep(100)
    return [socket.readyState, await seen]
  },
  'both close at once': async (S, u) => {
    const socket = await opened(S, u())
    const seen = trace(socket)
    socket.send('close 4001 server')
    socket.close(4002, 'page')
    return [(await seen).filter((s) => s.startsWith('close')).length, socket.readyState]
  },
  'what close returns': async (S, u) => {
    const socket = await opened(S, u())
    return String(socket.close())
  },
})
