/** The smallest power of two of at least `wanted` and at least `smallest`, itself a power of two. */
export function powerOfTwo(wanted: number, smallest: number): number {
  let size = smallest;
  while (size < wanted) size *= 2;
  return size;
}
