// send(), bufferedAmount, and how data arrives.

import { attempt, closed, on, opened, sleep } from './trace.js'

const bytes = Uint8Array.of(0, 1, 127, 128, 255)

const data = {
  'text': 'hello', 'an empty text': '', 'beyond ASCII': 'für 世界 🎟', 'half an emoji': 'a\ud83cb', 'NUL': 'a\0b', 'a number': 5.5, 'null': null,
  'undefined': undefined, 'true': true, 'an object': {}, 'an array': [1, 2], 'an object with toString': { toString: () => 'mine' },
  'a Date': new Date(0).toJSON(), 'URLSearchParams': new URLSearchParams({ a: 1 }), 'a symbol': Symbol(), 'a function': Math.max,
  'an ArrayBuffer': bytes.buffer, 'an empty ArrayBuffer': new ArrayBuffer(0), 'a Uint8Array': bytes, 'part of one': bytes.subarray(1, 3),
  'a Float64Array': Float64Array.of(1.5), 'a DataView': new DataView(bytes.buffer, 2, 2), 'a Blob': new Blob([bytes]), 'an empty Blob': new Blob([]),
  'a Blob of text': new Blob(['hello'], { type: 'text/plain' }), 'a File': new File(['hello'], 'a.txt'), '100 kB': 'x'.repeat(100_000),
  '100 kB of bytes': new Uint8Array(100_000), '126 bytes': 'x'.repeat(126),
}

// content is what a message holds, as text that can be compared.
async function content(message) {
  if (typeof message === 'string') return ['text', message.length, message.slice(0, 40)]
  const blob = message instanceof Blob ? [message.type] : []
  const all = new Uint8Array(message instanceof Blob ? await message.arrayBuffer() : message)
  return [message.constructor.name, ...blob, all.length, ...all.slice(0, 10)]
}

export const cases = {}

for (const [name, value] of Object.entries(data)) {
  cases[`send ${name}, and get it back`] = async (S, u) => {
    const socket = await opened(S, u())
    const result = attempt(() => socket.send(value))
    if (result[0] === 'throws') return socket.close(), result
    const buffered = socket.bufferedAmount > 0
    const message = await on(socket, 'message')
    socket.close()
    return [result, buffered, await content(message.data), socket.bufferedAmount]
  }
  cases[`send ${name}, connecting`] = (S, u) => {
    const socket = new S(u({ do: 'hang' }))
    const result = [attempt(() => socket.send(value)), socket.bufferedAmount]
    socket.close()
    return result
  }
}

for (const name of ['text', 'beyond ASCII', 'half an emoji', 'an empty text', 'a number', 'undefined', 'a symbol', 'an ArrayBuffer', 'part of one', 'a Blob', '126 bytes', '100 kB']) {
  cases[`send ${name}, closed`] = async (S, u) => {
    const socket = await closed(S, u())
    return [attempt(() => socket.send(data[name])), socket.bufferedAmount]
  }
  cases[`send ${name}, closing`] = async (S, u) => {
    const socket = await opened(S, u())
    socket.close()
    return [attempt(() => socket.send(data[name])), socket.bufferedAmount]
  }
  cases[`send ${name}, closed before there was a connection`] = async (S, u) => {
    const socket = new S(u({ do: 'hang' }))
    socket.close()
    const closing = [attempt(() => socket.send(data[name])), socket.bufferedAmount]
    await on(socket, 'close')
    return [closing, attempt(() => socket.send(data[name])), socket.bufferedAmount]
  }
}

for (const type of ['blob', 'arraybuffer', 'text', '', 'Blob', null, undefined, 5, { toString: () => 'arraybuffer' }]) {
  cases[`binaryType ${String(type)}`] = async (S, u) => {
    const socket = new S(u())
    const result = attempt(() => { socket.binaryType = type })
    const early = socket.binaryType
    await on(socket, 'open')
    socket.send(bytes)
    const { data } = await on(socket, 'message')
    socket.close()
    return [result, early, socket.binaryType, await content(data)]
  }
}

Object.assign(cases, {
  'send nothing': async (S, u) => {
    const connecting = new S(u({ do: 'hang' }))
    const result = attempt(() => connecting.send())
    connecting.close()
    const open = await opened(S, u())
    open.close()
    return [result, attempt(() => open.send())]
  },
  'send more than one thing': async (S, u) => {
    const socket = await opened(S, u())
    socket.send('a', 'b')
    const { data } = await on(socket, 'message')
    socket.close()
    return data
  },
  'binaryType between two messages': async (S, u) => {
    const socket = await opened(S, u())
    const seen = []
    for (const type of ['blob', 'arraybuffer', 'blob']) {
      socket.binaryType = type
      socket.send(bytes)
      seen.push(await content((await on(socket, 'message')).data))
    }
    socket.close()
    return seen
  },
  'binaryType after closing': async (S, u) => {
    const socket = await closed(S, u())
    socket.binaryType = 'arraybuffer'
    return socket.binaryType
  },
  'a Blob before a text': async (S, u) => {
    const socket = await opened(S, u())
    socket.binaryType = 'arraybuffer'
    const seen = []
    socket.send(new Blob(['x'.repeat(50_000)]))
    socket.send('text')
    while (seen.length < 2) seen.push(...await content((await on(socket, 'message')).data))
    socket.close()
    return seen
  },
  'bufferedAmount while much is on its way': async (S, u) => {
    const socket = await opened(S, u())
    for (let i = 0; i < 4; i++) socket.send('x'.repeat(250_000))
    const much = socket.bufferedAmount
    for (let i = 0; i < 4; i++) await on(socket, 'message')
    await sleep(0)
    socket.close()
    return [much, socket.bufferedAmount]
  },
  'bufferedAmount of what was never sent': async (S, u) => {
    const socket = await opened(S, u({ do: 'unread' }))
    socket.send('x'.repeat(10))
    socket.close()
    await on(socket, 'close')
    return [socket.bufferedAmount, socket.readyState]
  },
  'send in onclose': async (S, u) => {
    const socket = new S(u({ do: 'close', code: 4000 }))
    return new Promise((resolve) => {
      socket.onclose = () => resolve([attempt(() => socket.send('x')), socket.bufferedAmount])
    })
  },
})
