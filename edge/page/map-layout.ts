/**
 * Where domains stand on the map. Their measured positions collapse where many are alike, so the map keeps their order along
 * both axes rather than their distances: rows in the order of the vertical axis, each in that of the horizontal one. Pure.
 */

export interface Point {
  x: number;
  y: number;
}

interface Area {
  width: number;
  height: number;
  /** What one domain needs, its name included. */
  box: { width: number; height: number };
}

/** Centres of boxes in the area, in the order of `positions`; none overlap where there is room for all. */
export function spread(positions: readonly (readonly [number, number])[], { width, height, box }: Area): Point[] {
  const [across, down] = [width / box.width, height / box.height];
  const columns = Math.max(1, Math.floor(Math.min(across, Math.ceil(Math.sqrt((positions.length * across) / down)))));
  const rows = Math.ceil(positions.length / columns);
  const order = positions.map((_, i) => i).sort((a, b) => positions[b][1] - positions[a][1] || a - b);
  const points = new Array<Point>(positions.length);
  for (let row = 0; row < rows; row++) {
    const members = order.slice(row * columns, (row + 1) * columns).sort((a, b) => positions[a][0] - positions[b][0]);
    const y = rows > 1 ? box.height / 2 + (row * (height - box.height)) / (rows - 1) : height / 2;
    for (const [i, member] of members.entries()) points[member] = { x: ((i + 0.5) * width) / members.length, y };
  }
  return points;
}

/** How sharply the prompt's dot keeps to the domains that it resembles most. */
const sharpness = 12;

/** Between the domains, the nearer the more a domain resembles the prompt. */
export function between(near: readonly { similarity: number; at: Point }[]): Point | null {
  if (near.length === 0) return null;
  const most = Math.max(...near.map(({ similarity }) => similarity));
  const weights = near.map(({ similarity }) => Math.exp(sharpness * (similarity - most)));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const mean = (axis: "x" | "y") => near.reduce((total, { at }, i) => total + (weights[i] / sum) * at[axis], 0);
  return { x: mean("x"), y: mean("y") };
}
