/** Which of several names a misspelt one was meant to be. */

const longestWord = 40;

/** The name that differs in the fewest letters, two in six at most. Case, `_` and `-` do not count. null if none is near. */
export function nearestName(word: string, names: readonly string[]): string | null {
  if (word.length > longestWord) return null;
  let nearest: string | null = null;
  let minDistance = Number.POSITIVE_INFINITY;
  for (const name of names) {
    const distance = editDistance(plain(word), plain(name));
    if (distance < minDistance && distance <= Math.max(1, name.length / 3)) [nearest, minDistance] = [name, distance];
  }
  return nearest;
}

function plain(word: string): string {
  return word.toLowerCase().replaceAll(/[_-]/g, "");
}

/** Letters to insert, delete, replace or swap with their neighbour (Damerau and Levenshtein). */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      const isSwapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const swapped = isSwapped ? before[j - 2] + 1 : Number.POSITIVE_INFINITY;
      next.push(Math.min(replaced, swapped, row[j] + 1, next[j - 1] + 1));
    }
    [before, row] = [row, next];
  }
  return row[b.length];
}
