/** The smallest power of two that is at least `wanted` and `smallest`, itself one. */
export function powerOfTwo(wanted: number, smallest: number): number {
  let size = smallest;
  while (size < wanted) size *= 2;
  return size;
}
