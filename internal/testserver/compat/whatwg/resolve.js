// Answers, for each line [base, reference], where a browser that is at base goes
// when it is sent to reference: [origin, path, the query's next], or null for nowhere.
// It ends with its input.
let rest = '';
process.stdin.setEncoding('utf8').on('data', (chunk) => {
  const lines = (rest + chunk).split('\n');
  rest = lines.pop();
  process.stdout.write(lines.map(answer).join(''));
});

function answer(line) {
  const [base, reference] = JSON.parse(line);
  let to = null;
  try {
    const u = new URL(reference, base);
    to = [u.origin, u.pathname, u.searchParams.get('next')];
  } catch {
    // a browser stays where it is
  }
  return JSON.stringify(to) + '\n';
}
