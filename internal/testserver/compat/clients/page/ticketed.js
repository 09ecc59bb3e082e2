export async function ticketed(path) { // image.src = await ticketed('/picture.png')
  const minted = await fetch('/api/auth/ws-ticket', { method: 'POST',
    headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ endpoint: path }) })
  if (!minted.ok) throw new Error(`no ticket: ${minted.status}`)
  return `${path}?ticket=${(await minted.json()).ticket}`
}
