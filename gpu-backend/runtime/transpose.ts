export function transpose<T extends Float32Array | Int8Array>(matrix: T, rows: number, columns: number): T {
  const turned = matrix.slice() as T;
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) turned[j * rows + i] = matrix[i * columns + j];
  return turned;
}
