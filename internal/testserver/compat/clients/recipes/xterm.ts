import { AttachAddon } from '@xterm/addon-attach'
import { Terminal } from '@xterm/xterm'
import { connect } from 'ticketgate'

export function attach(element: HTMLElement, signal: AbortSignal) {
  const terminal = new Terminal()
  terminal.open(element)
  const connection = connect('/ws', {
    signal,
    onopen: () => terminal.loadAddon(new AttachAddon(connection.socket!)), // to each socket anew
    onclose: ({ code, reason }) => terminal.writeln(`\r\n[closed: ${code} ${reason}]`),
  })
  return terminal
}
