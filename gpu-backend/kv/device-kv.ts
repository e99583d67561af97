/**
 * Keys and values on a device in arrays [places, K, P, d], and states in an array [places, P, D]. Every open row has a place. A decode
 * pass runs on all places up to the pass's last row. A row that is not in the pass gets a token there, which writes only to the row's
 * next position.
 *
 * If rows need more places or positions, all rows move into new arrays. Operations on the device run in the order in which they are
 * queued. `settled` throws the error of a failed operation.
 * Shapes: K heads of keys and values, d head width, P positions that a row has room for, D hidden.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import { buildCopy, buildRead } from "../runtime/device-graph.ts";
import { copyFeeds, type DeviceBuffer, type DeviceMemory, view, viewAs } from "../runtime/device-memory.ts";
import { names } from "../runtime/graph-names.ts";
import { type Session, type Tensor, tensor } from "../runtime/session.ts";
import type { KvFormat, ModelShape } from "../runtime/step.ts";
import { bytesPerPosition, deviceContextBytes, type KvShape, kvShapeOf, positionsFor } from "./kv-budget.ts";
import type { Kv, KvBlock, KvPosition, KvStore } from "./runner.ts";

const firstPlaces = 4;

interface Limits {
  /** Maximum running rows. Running and parked rows together are at most twice as many. */
  maximumRows: number;
  maximumBytes: number;
  format: KvFormat;
  /** Minimum rows of a pass (`steadyRows`). */
  leastRows: number;
}

class DeviceRow implements Kv {
  positions = 0;
  isParked = false;
  /** Number of positions to have room for. */
  wanted: number;
  place: number;

  constructor(wanted: number, place: number) {
    this.wanted = wanted;
    this.place = place;
  }
}

/** Arrays [places, K, room, d] for each layer's keys and values, then [places, room, D] for states. */
interface Arrays {
  places: number;
  room: number;
  /** Empty until the queued allocation has run. */
  buffers: DeviceBuffer[];
}

interface Span {
  arrays: Arrays;
  place: number;
  start: number;
}

class DeviceBlock implements KvBlock {
  readonly arrays: Arrays;
  readonly positions: number;
  readonly bytes: number;
  readonly free: () => void;

  constructor(positions: number, bytes: number, free: (buffers: DeviceBuffer[]) => void) {
    this.arrays = { places: 1, room: positions, buffers: [] };
    this.positions = positions;
    this.bytes = bytes;
    this.free = () => free(this.arrays.buffers);
  }
}

export class DeviceKv implements KvStore {
  // The kernels' sums depend on where a run starts.
  readonly continuesChunks = false;
  readonly capacityBytes: number;
  readonly #shape: KvShape;
  readonly #memory: DeviceMemory;
  readonly #maximumRows: number;
  readonly #leastRows: number;
  readonly #read: Session;
  readonly #copyOne: Session;
  readonly #copyKv: Session;
  #arrays: Arrays = { places: 0, room: 0, buffers: [] };
  /** Arrays of a single row, for prefill passes: the attention operator does not take several tokens of several rows. */
  #staging: Arrays = { places: 1, room: 0, buffers: [] };
  #staged: { row: DeviceRow; positions: number } | null = null;
  #rows: (DeviceRow | undefined)[] = [];
  #queue: Promise<void> = Promise.resolve();

  private constructor(shape: KvShape, memory: DeviceMemory, limits: Limits, sessions: readonly Session[]) {
    this.#shape = shape;
    this.#memory = memory;
    this.#leastRows = limits.leastRows;
    this.#maximumRows = Math.max(2 * limits.maximumRows, this.#leastRows);
    [this.#read, this.#copyOne, this.#copyKv] = sessions;
    // `#staging` takes the memory of one more row.
    const usable = (this.#maximumRows + 1) * this.#roomFor(shape.contextTokens) * bytesPerPosition(shape);
    this.capacityBytes = Math.min(limits.maximumBytes, usable);
  }

  /** Throws an Error if `maximumBytes` do not hold `leastRows` rows of the whole context, and the staging row. */
  static async open(config: ModelShape, memory: DeviceMemory, limits: Limits): Promise<DeviceKv> {
    const graphs = [buildRead(), buildCopy(1), buildCopy(2 * config.layers)];
    const sessions: Session[] = [];
    for (const graph of graphs) sessions.push(await memory.session(graph));
    const [shape, { maximumBytes }] = [kvShapeOf(config, limits.format), limits];
    const needed = deviceContextBytes(shape, limits.leastRows);
    if (maximumBytes >= needed) return new DeviceKv(shape, memory, limits, sessions);
    throw new Error(
      `KV memory is ${maximumBytes} bytes; one sequence of ${config.contextTokens} positions needs ${needed} on a device`,
    );
  }

  get bytes(): number {
    const buffers = [...this.#arrays.buffers, ...this.#staging.buffers];
    return 4 * buffers.reduce((sum, { elements }) => sum + elements, 0);
  }

  get usedBytes(): number {
    return this.#rows.reduce((sum, row) => sum + (row?.positions ?? 0), 0) * bytesPerPosition(this.#shape);
  }

  /** Number of places that a pass of these rows runs on. */
  placesFor(rows: readonly Kv[]): number {
    return Math.min(this.#arrays.places, this.#passPlaces(Math.max(...rows.map((row) => asRow(row).place)) + 1));
  }

  /** Rounds a number of places up, so that few sizes occur and a row's bits do not depend on the size. */
  #passPlaces(places: number): number {
    return powerOfTwo(places, this.#leastRows);
  }

  /** Keys and values of the first places, and the length of each of their rows. */
  first(places: number) {
    const arrays = this.#kvViews({ ...this.#arrays, places });
    return { arrays, positions: Array.from({ length: places }, (_, place) => this.#rows[place]?.positions ?? 0) };
  }

  /** [places × P, D] */
  get allStates(): Tensor {
    const { places, room, buffers } = this.#arrays;
    return view(buffers.at(-1)!, places * room, this.#shape.arrays.at(-1)!.width);
  }

  /** Index in `allStates`. Throws an Error if the row has no room for the position. */
  stateIndex(place: number, position: number): number {
    const { places, room } = this.#arrays;
    if (place >= places || position >= room) throw new Error(`the row has no room for position ${position}`);
    return place * room + position;
  }

  placeOf(row: Kv): number {
    return asRow(row).place;
  }

  holds(lengths: readonly number[], parked: readonly number[]): boolean {
    const rows = lengths.length + parked.length;
    const longest = [...lengths, ...parked].reduce((a, b) => Math.max(a, b), 0);
    const positions = (Math.max(rows, this.#leastRows) + 1) * this.#roomFor(longest);
    return rows <= this.#maximumRows && positions * bytesPerPosition(this.#shape) <= this.capacityBytes;
  }

  open(wanted: number): Kv {
    const row = new DeviceRow(wanted, this.#freePlace());
    if (row.place === this.#maximumRows) throw new Error(`all ${this.#maximumRows} rows of the device are taken`);
    this.#rows[row.place] = row;
    return row;
  }

  close(row: Kv): void {
    this.#rows[asRow(row).place] = undefined;
    if (this.#staged?.row === row) this.#staged = null;
  }

  /** A parked row keeps its place, but takes no more room than it fills. */
  park(row: Kv): void {
    const own = asRow(row);
    own.isParked = true;
    own.wanted = own.positions;
  }

  /** Never called, because a device takes no drafts. */
  cut(): void {
    throw new Error("a device row is never cut");
  }

  place(rows: readonly { kv: Kv; positions: number }[]): void {
    for (const { kv, positions } of rows) {
      const row = asRow(kv);
      row.isParked = false;
      row.wanted = Math.max(row.wanted, positions);
    }
    const open = this.#rows.filter((row) => row !== undefined);
    const longest = open.reduce((most, { positions, wanted }) => Math.max(most, positions, wanted), 0);
    const { places, room } = this.#arrays;
    if (this.#rows.findLastIndex((row) => row) >= places || longest >= room) this.#resize(open, this.#roomFor(longest));
  }

  advance(row: Kv, tokens: number): void {
    asRow(row).positions += tokens;
  }

  /** Copies a row's keys and values to `#staging` for a prefill. `unstage` copies the new positions back. */
  async stage(row: Kv): Promise<Tensor[]> {
    const own = asRow(row);
    if (this.#staged?.row !== own || this.#staged.positions !== own.positions) {
      await this.#copy(this.#spanOf(own, 0), { arrays: this.#staging, place: 0, start: 0 }, own.positions);
      this.#staged = { row: own, positions: own.positions };
    }
    return this.#kvViews(this.#staging);
  }

  async unstage(): Promise<void> {
    const { row, positions: start } = this.#staged!;
    const fresh = { arrays: this.#staging, place: 0, start };
    await this.#copy(fresh, this.#spanOf(row, start), row.positions - start);
    this.#staged = { row, positions: row.positions };
  }

  copy(row: Kv, from: number, to: number): KvBlock {
    const count = to - from;
    const source = this.#spanOf(asRow(row), from);
    const free = (buffers: DeviceBuffer[]) => this.#enqueue(async () => this.#free(buffers));
    const block = new DeviceBlock(count, count * bytesPerPosition(this.#shape), free);
    this.#enqueue(async () => {
      for (let i = 0; i < this.#shape.arrays.length; i++) await this.#allocate(block.arrays, i);
      await this.#copy(source, { arrays: block.arrays, place: 0, start: 0 }, count);
    });
    return block;
  }

  write(row: Kv, block: KvBlock, positions: number): void {
    const own = asRow(row);
    const to = this.#spanOf(own, own.positions);
    own.positions += positions;
    const from = { arrays: (block as DeviceBlock).arrays, place: 0, start: 0 };
    this.#enqueue(() => this.#copy(from, to, positions));
  }

  async states(positions: readonly KvPosition[]): Promise<Float32Array[]> {
    if (positions.length === 0) return [];
    await this.settled();
    const from = Int32Array.from(positions, ({ kv, position }) => this.stateIndex(this.placeOf(kv), position));
    const { y } = await this.#memory.run(this.#read, { x: this.allStates, from: tensor(from, [from.length]) }, ["y"]);
    const [all, D] = [y.data as Float32Array, y.dims[1]];
    return positions.map((_, i) => all.subarray(i * D, (i + 1) * D));
  }

  /** Moves rows to lower places if the next decode pass then runs on fewer places. */
  trim(): void {
    const running = this.#rows.filter((row) => row && !row.isParked) as DeviceRow[];
    while (running.length > 0) {
      const last = running.reduce((a, b) => (a.place > b.place ? a : b));
      const free = this.#freePlace();
      if (this.#passPlaces(last.place + 1) === this.#passPlaces(running.length) || free > last.place) return;
      const from = this.#spanOf(last, 0);
      [this.#rows[free], this.#rows[last.place]] = [last, undefined];
      last.place = free;
      const to = this.#spanOf(last, 0);
      const count = last.positions;
      this.#enqueue(() => this.#copy(from, to, count));
    }
  }

  settled(): Promise<void> {
    return this.#queue;
  }

  #enqueue(operation: () => Promise<void>): void {
    this.#queue = this.#queue.then(operation);
    // `settled` reports the error.
    this.#queue.catch(() => undefined);
  }

  /** One position is added, because a pass may write to the next position of a row that is not in the pass. */
  #roomFor(longest: number): number {
    return positionsFor(longest, this.#shape) + 1;
  }

  #freePlace(): number {
    for (let place = 0; place < this.#maximumRows; place++) if (!this.#rows[place]) return place;
    return this.#maximumRows;
  }

  /** Moves all rows. Arrays are replaced one by one, so that only one array is in memory twice. */
  #resize(rows: readonly DeviceRow[], room: number): void {
    const { arrays: shapes } = this.#shape;
    const most = Math.floor(this.capacityBytes / bytesPerPosition(this.#shape) / room) - 1;
    const places = Math.min(powerOfTwo(rows.length, firstPlaces), this.#maximumRows, most);
    if (places < rows.length) throw new Error(`KV memory does not hold ${rows.length} rows of ${room} positions`);
    const [old, next] = [this.#arrays, { places, room, buffers: [] } as Arrays];
    const [oldStaging, staging] = [this.#staging, { places: 1, room, buffers: [] } as Arrays];
    const moved = rows.filter(({ positions }) => positions > 0);
    const from = moved.map((row) => this.#spanOf(row, 0));
    rows.forEach((row, place) => {
      row.place = place;
    });
    [this.#rows, this.#arrays, this.#staging, this.#staged] = [[...rows], next, staging, null];
    const moves = moved.map((row, i) => ({ from: from[i], to: this.#spanOf(row, 0), count: row.positions }));
    this.#enqueue(async () => {
      this.#free(oldStaging.buffers);
      const [ofHeads, ofStates] = [indexFeeds(moves, shapes[0].heads), indexFeeds(moves, 1)];
      for (const i of shapes.keys()) {
        const isState = i === shapes.length - 1;
        await this.#allocate(next, i);
        if (moves.length > 0) {
          await this.#copyArrays(this.#copyOne, [old, next], [i], isState ? ofStates : ofHeads);
        }
        if (old.buffers.length > 0) this.#free([old.buffers[i]]);
        if (!isState) await this.#allocate(staging, i);
      }
    });
  }

  async #allocate({ places, room, buffers }: Arrays, i: number): Promise<void> {
    buffers.push(await this.#memory.allocate(places * this.#shape.arrays[i].heads * room * this.#words(i)));
  }

  /** Elements of 32 bits of a vector of an array. */
  #words(i: number): number {
    const { width, bytes } = this.#shape.arrays[i];
    return (width * bytes) / 4;
  }

  #free(buffers: readonly DeviceBuffer[]): void {
    for (const buffer of buffers) this.#memory.free(buffer);
  }

  #spanOf({ place }: DeviceRow, start: number): Span {
    return { arrays: this.#arrays, place, start };
  }

  #kvViews({ places, room, buffers }: Arrays): Tensor[] {
    const { arrays } = this.#shape;
    return arrays.slice(0, -1).map(({ heads, width, bytes }, i) => {
      return viewAs(bytes === 2 ? "float16" : "float32", buffers[i], places, heads, room, width);
    });
  }

  /** Copies states, too, if both spans have an array of states. */
  async #copy(from: Span, to: Span, count: number): Promise<void> {
    if (count === 0) return;
    const both = [from.arrays, to.arrays] as const;
    const last = this.#shape.arrays.length - 1;
    const copy = (session: Session, arrays: readonly number[], heads: number) =>
      this.#copyArrays(session, both, arrays, indexFeeds([{ from, to, count }], heads));
    await copy(this.#copyKv, [...Array(last).keys()], this.#shape.arrays[0].heads);
    if (both.every(({ buffers }) => buffers.length > last)) await copy(this.#copyOne, [last], 1);
  }

  /** Copies between arrays with the given numbers, which must all have the same width. */
  async #copyArrays(
    session: Session,
    [from, to]: readonly [Arrays, Arrays],
    arrays: readonly number[],
    indexes: ReturnType<typeof copyFeeds>,
  ): Promise<void> {
    const words = this.#words(arrays[0]);
    const asVectors = (buffer: DeviceBuffer) => viewAs("int32", buffer, buffer.elements / words, words);
    const feeds: Record<string, Tensor> = { ...indexes };
    const written: Record<string, Tensor> = {};
    arrays.forEach((array, i) => {
      feeds[`x.${i}`] = asVectors(from.buffers[array]);
      feeds[names.kept(i)] = asVectors(to.buffers[array]);
      written[names.grown(i)] = feeds[names.kept(i)];
    });
    await this.#memory.run(session, feeds, [], written);
  }
}

interface Move {
  from: Span;
  to: Span;
  count: number;
}

function indexFeeds(moves: readonly Move[], heads: number): ReturnType<typeof copyFeeds> {
  const taken = moves.flatMap(({ from, count }) => indexesOf(from, count, heads));
  const put = moves.flatMap(({ to, count }) => indexesOf(to, count, heads));
  return copyFeeds(taken, put);
}

function indexesOf({ arrays: { room }, place, start }: Span, count: number, heads: number): number[] {
  return Array.from({ length: heads * count }, (_, i) => {
    const head = Math.floor(i / count);
    return (place * heads + head) * room + start + (i % count);
  });
}

function asRow(row: Kv): DeviceRow {
  if (row instanceof DeviceRow) return row;
  throw new Error("the row is not on the device");
}
