/**
 * Where domains stand on the map. Their measured positions collapse where many are alike, so the map keeps their order along
 * both axes rather than their distances, and pushes apart what would overlap. Pure and deterministic.
 */

export interface Point {
  x: number;
  y: number;
}

export interface Area {
  width: number;
  height: number;
  /** What one domain needs, its name included. */
  box: { width: number; height: number };
}

const rounds = 300;

/** Centres of boxes in the area, in the order of `positions`; none overlap where there is room for all. */
export function spread(positions: readonly (readonly [number, number])[], { width, height, box }: Area): Point[] {
  const ranks = (axis: 0 | 1) => {
    const order = positions.map((_, i) => i).sort((a, b) => positions[a][axis] - positions[b][axis] || a - b);
    const rank = new Array<number>(order.length);
    for (const [place, i] of order.entries()) rank[i] = order.length > 1 ? place / (order.length - 1) : 0.5;
    return rank;
  };
  const [across, up] = [ranks(0), ranks(1)];
  const room = { x: width - box.width, y: height - box.height };
  const points = positions.map((_, i) => ({
    x: box.width / 2 + across[i] * room.x,
    y: box.height / 2 + (1 - up[i]) * room.y,
  }));
  for (let round = 0; round < rounds; round++) if (!pushApart(points, { width, height, box })) return points;
  return inRows(positions, { width, height, box });
}

/** For a map that is too full to move freely: rows in the order of the vertical axis, each in that of the horizontal one. */
function inRows(positions: readonly (readonly [number, number])[], { width, height, box }: Area): Point[] {
  const columns = Math.max(1, Math.floor(width / box.width));
  const rows = Math.ceil(positions.length / columns);
  const order = positions.map((_, i) => i).sort((a, b) => positions[b][1] - positions[a][1] || a - b);
  const points = new Array<Point>(positions.length);
  for (let row = 0; row < rows; row++) {
    const members = order.slice(row * columns, (row + 1) * columns).sort((a, b) => positions[a][0] - positions[b][0]);
    const y = box.height / 2 + (rows > 1 ? (row * (height - box.height)) / (rows - 1) : 0);
    for (const [i, member] of members.entries()) points[member] = { x: ((i + 0.5) * width) / members.length, y };
  }
  return points;
}

/** Moves each overlapping pair apart along the axis where they overlap less. Returns whether any moved. */
function pushApart(points: Point[], { width, height, box }: Area): boolean {
  let hasMoved = false;
  const within = (value: number, size: number, most: number) => Math.min(Math.max(value, size / 2), most - size / 2);
  for (let i = 0; i < points.length; i++) {
    for (let j = i + 1; j < points.length; j++) {
      const [a, b] = [points[i], points[j]];
      const overX = box.width - Math.abs(a.x - b.x);
      const overY = box.height - Math.abs(a.y - b.y);
      if (overX <= 0.5 || overY <= 0.5) continue;
      hasMoved = true;
      if (overX / box.width < overY / box.height) {
        const step = (a.x < b.x ? -overX : overX) / 2;
        a.x = within(a.x + step, box.width, width);
        b.x = within(b.x - step, box.width, width);
      } else {
        const step = (a.y < b.y ? -overY : overY) / 2;
        a.y = within(a.y + step, box.height, height);
        b.y = within(b.y - step, box.height, height);
      }
    }
  }
  return hasMoved;
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
