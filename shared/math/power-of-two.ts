/** The smallest power of two that is not below `wanted` and not below `smallest`, which is a power of two itself. */
export function powerOfTwo(wanted: number, smallest: number): number {
  let size = smallest;
  while (size < wanted) size *= 2;
  return size;
}
