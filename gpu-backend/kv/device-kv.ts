/**
 * Keys, values and states on a device. Each row has a place in arrays of a fixed size, [places, K, P, d] and [places, P, D], until it is
 * closed, also while it is parked. A decode pass runs the first places up to the last row of the pass, as a view of the arrays, and other
 * rows among them with a token whose results are dropped: it writes only the position after a row's last, which holds nothing.
 * Operations on the device are queued, and run in their order. An error of one is thrown by `settled`.
 * Shapes: L layers, K heads of keys and values, d head width, P positions that a row has room for, D hidden.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import { buildCopy, buildRead } from "../runtime/device-graph.ts";
import { type DeviceBuffer, type DeviceMemory, view } from "../runtime/device-memory.ts";
import { names } from "../runtime/graph-names.ts";
import { type Session, type Tensor, tensor } from "../runtime/session.ts";
import type { ModelShape } from "../runtime/step.ts";
import type { Kv, KvBlock, KvPosition, KvStore } from "./runner.ts";

interface Limits {
  maximumRows: number;
  maximumBytes: number;
}

class DeviceRow implements Kv {
  positions = 0;
  isParked = false;
  place: number;

  constructor(place: number) {
    this.place = place;
  }
}

/** Positions from `start` on of a place in arrays [places, K, room, d], and maybe [places, room, D]. */
interface Span {
  arrays: readonly DeviceBuffer[];
  room: number;
  place: number;
  start: number;
}

/** A copy of some positions, [K, positions, d] for each array, and their states, [positions, D]. */
class DeviceBlock implements KvBlock {
  readonly positions: number;
  readonly bytes: number;
  /** Empty until the copy has run. States last. */
  buffers: DeviceBuffer[] = [];
  readonly free: () => void;

  constructor(positions: number, bytes: number, free: (block: DeviceBlock) => void) {
    this.positions = positions;
    this.bytes = bytes;
    this.free = () => free(this);
  }

  get span(): Span {
    return { arrays: this.buffers, room: this.positions, place: 0, start: 0 };
  }
}

export class DeviceKv implements KvStore {
  readonly continuesChunks = true;
  readonly capacityBytes: number;
  /** P: a row that is full still has a position that others' passes may write to. */
  readonly positions: number;
  readonly #config: ModelShape;
  readonly #memory: DeviceMemory;
  readonly #places: number;
  /** Keys and values of each layer, then states. */
  readonly #arrays: DeviceBuffer[] = [];
  /** Keys and values of one row, which prefill passes run on: the operator takes one row of several tokens only as an array of one. */
  readonly #staging: Span;
  #staged: { row: DeviceRow; positions: number } | null = null;
  #copyKv!: Session;
  #copyStates!: Session;
  #read!: Session;
  /** By place. */
  readonly #rows: (DeviceRow | undefined)[] = [];
  #queue: Promise<void> = Promise.resolve();

  private constructor(config: ModelShape, memory: DeviceMemory, limits: Limits, staging: DeviceBuffer[]) {
    this.#config = config;
    this.#memory = memory;
    this.positions = config.contextTokens + 1;
    this.#staging = { arrays: staging, room: this.positions, place: 0, start: 0 };
    const rowBytes = this.positions * this.#positionBytes;
    // Parked rows need at most as many places again as running ones. One more holds the row that a prefill runs on.
    this.#places = Math.min(2 * limits.maximumRows, Math.floor(limits.maximumBytes / rowBytes) - 1);
    if (this.#places < 1) throw new Error(`KV memory is ${limits.maximumBytes} bytes; a device needs ${2 * rowBytes}`);
    this.capacityBytes = this.#places * rowBytes;
  }

  /** Throws an Error if `maximumBytes` do not hold two sequences as long as the context. */
  static async open(config: ModelShape, memory: DeviceMemory, limits: Limits): Promise<DeviceKv> {
    const staging: DeviceBuffer[] = [];
    const kv = new DeviceKv(config, memory, limits, staging);
    const { layers, hiddenSize, kvHeads, headWidth } = config;
    const rowElements = kv.positions * kvHeads * headWidth;
    for (let i = 0; i < 2 * layers; i++) {
      kv.#arrays.push(await memory.allocate(kv.#places * rowElements));
      staging.push(await memory.allocate(rowElements));
    }
    kv.#arrays.push(await memory.allocate(kv.#places * kv.positions * hiddenSize));
    kv.#copyKv = await memory.session(buildCopy(2 * layers));
    kv.#copyStates = await memory.session(buildCopy(1));
    kv.#read = await memory.session(buildRead());
    return kv;
  }

  get bytes(): number {
    return 4 * [...this.#arrays, ...this.#staging.arrays].reduce((sum, { elements }) => sum + elements, 0);
  }

  get usedBytes(): number {
    return this.#rows.reduce((sum, row) => sum + (row?.positions ?? 0), 0) * this.#positionBytes;
  }

  get #positionBytes(): number {
    const { layers, hiddenSize, kvHeads, headWidth } = this.#config;
    return 4 * (2 * layers * kvHeads * headWidth + hiddenSize);
  }

  /** Places up to the last of these rows, rounded so that few sizes occur. */
  placesFor(rows: readonly Kv[]): number {
    return Math.min(this.#places, powerOfTwo(Math.max(...rows.map((row) => asRow(row).place)) + 1, 1));
  }

  /** Keys and values of the first places, and the positions that each holds. */
  first(places: number) {
    const { kvHeads, headWidth } = this.#config;
    const arrays = this.#arrays.slice(0, -1).map((array) => view(array, places, kvHeads, this.positions, headWidth));
    return { arrays, positions: Array.from({ length: places }, (_, place) => this.#rows[place]?.positions ?? 0) };
  }

  /** All states, [places × P, D]. */
  get allStates(): Tensor {
    return view(this.#arrays.at(-1)!, this.#places * this.positions, this.#config.hiddenSize);
  }

  /** Index of a position's state in `allStates`. */
  stateIndex(place: number, position: number): number {
    return place * this.positions + position;
  }

  placeOf(row: Kv): number {
    return asRow(row).place;
  }

  holds(lengths: readonly number[], parked: readonly number[]): boolean {
    return lengths.length + parked.length <= this.#places;
  }

  open(_wanted: number): Kv {
    const free = this.#freePlace();
    if (free === this.#places) throw new Error(`all ${this.#places} rows of the device are taken`);
    const row = new DeviceRow(free);
    this.#rows[free] = row;
    return row;
  }

  close(row: Kv): void {
    const { place } = asRow(row);
    this.#rows[place] = undefined;
    if (this.#staged?.row === row) this.#staged = null;
  }

  /** A parked row keeps its place. */
  park(row: Kv): void {
    asRow(row).isParked = true;
  }

  place(rows: readonly { kv: Kv; positions: number }[]): void {
    for (const { kv } of rows) asRow(kv).isParked = false;
  }

  /** The row after `tokens` more positions. */
  advance(row: Kv, tokens: number): void {
    asRow(row).positions += tokens;
  }

  /** Keys and values of one row alone, for a prefill. `unstage` copies what the prefill has appended to the row's place. */
  async stage(row: Kv): Promise<Tensor[]> {
    const { kvHeads, headWidth } = this.#config;
    const own = asRow(row);
    if (this.#staged?.row !== own || this.#staged.positions !== own.positions) {
      await this.#copy(this.#kvOf(own.place, 0), this.#staging, own.positions);
      this.#staged = { row: own, positions: own.positions };
    }
    return this.#staging.arrays.map((array) => view(array, 1, kvHeads, this.positions, headWidth));
  }

  async unstage(): Promise<void> {
    const { row, positions: start } = this.#staged!;
    await this.#copy({ ...this.#staging, start }, this.#kvOf(row.place, start), row.positions - start);
    this.#staged = { row, positions: row.positions };
  }

  copy(row: Kv, from: number, to: number): KvBlock {
    const count = to - from;
    const source = this.#allOf(asRow(row).place, from);
    const free = (own: DeviceBlock) =>
      this.#enqueue(async () => {
        for (const buffer of own.buffers) this.#memory.free(buffer);
      });
    const block = new DeviceBlock(count, count * this.#positionBytes, free);
    this.#enqueue(async () => {
      const { kvHeads: K, headWidth: d, hiddenSize: D, layers } = this.#config;
      for (let i = 0; i < 2 * layers; i++) block.buffers.push(await this.#memory.allocate(count * K * d));
      block.buffers.push(await this.#memory.allocate(count * D));
      await this.#copy(source, block.span, count);
    });
    return block;
  }

  write(row: Kv, block: KvBlock, positions: number): void {
    const own = asRow(row);
    const to = this.#allOf(own.place, own.positions);
    own.positions += positions;
    this.#enqueue(() => this.#copy((block as DeviceBlock).span, to, positions));
  }

  async states(positions: readonly KvPosition[]): Promise<Float32Array[]> {
    if (positions.length === 0) return [];
    await this.settled();
    const from = Int32Array.from(positions, ({ kv, position }) => this.stateIndex(this.placeOf(kv), position));
    const { y } = await this.#memory.run(this.#read, { x: this.allStates, from: tensor(from, [from.length]) }, ["y"]);
    const { hiddenSize: D } = this.#config;
    return positions.map((_, i) => (y.data as Float32Array).subarray(i * D, (i + 1) * D));
  }

  /** Moves rows to lower places if a decode pass then runs fewer. */
  trim(): void {
    const running = this.#rows.filter((row) => row && !row.isParked) as DeviceRow[];
    while (running.length > 0) {
      const last = running.reduce((a, b) => (a.place > b.place ? a : b));
      const free = this.#freePlace();
      if (powerOfTwo(last.place + 1, 1) === powerOfTwo(running.length, 1) || free > last.place) return;
      const [from, to, count] = [this.#allOf(last.place, 0), this.#allOf(free, 0), last.positions];
      this.#enqueue(() => this.#copy(from, to, count));
      [this.#rows[free], this.#rows[last.place]] = [last, undefined];
      last.place = free;
    }
  }

  /** Waits for queued operations. Throws the error of one that failed. */
  settled(): Promise<void> {
    return this.#queue;
  }

  #enqueue(operation: () => Promise<void>): void {
    this.#queue = this.#queue.then(operation);
    // `settled` reports it.
    this.#queue.catch(() => undefined);
  }

  /** The lowest free place; the number of places if none is free. */
  #freePlace(): number {
    for (let place = 0; place < this.#places; place++) if (!this.#rows[place]) return place;
    return this.#places;
  }

  /** Keys and values of a place from position `start` on. */
  #kvOf(place: number, start: number): Span {
    return { arrays: this.#arrays.slice(0, -1), room: this.positions, place, start };
  }

  /** The same with states. */
  #allOf(place: number, start: number): Span {
    return { arrays: this.#arrays, room: this.positions, place, start };
  }

  /** Copies `count` positions, and their states if both spans have them. */
  async #copy(from: Span, to: Span, count: number): Promise<void> {
    if (count === 0) return;
    const { layers, kvHeads: K, headWidth: d, hiddenSize: D } = this.#config;
    const copy = async (session: Session, heads: number, width: number, [first, end]: readonly [number, number?]) => {
      const feeds: Record<string, Tensor> = {
        from: tensor(Int32Array.from(rowsOf(from, count, heads)), [heads * count]),
        to: tensor(BigInt64Array.from(rowsOf(to, count, heads), BigInt), [heads * count, 1]),
      };
      const written: Record<string, Tensor> = {};
      const asRows = (buffer: DeviceBuffer) => view(buffer, buffer.elements / width, width);
      to.arrays.slice(first, end).forEach((array, i) => {
        feeds[`x.${i}`] = asRows(from.arrays[first + i]);
        feeds[names.kept(i)] = asRows(array);
        written[names.grown(i)] = feeds[names.kept(i)];
      });
      await this.#memory.run(session, feeds, [], written);
    };
    await copy(this.#copyKv, K, d, [0, 2 * layers]);
    const hasStates = from.arrays.length > 2 * layers && to.arrays.length > 2 * layers;
    if (hasStates) await copy(this.#copyStates, 1, D, [2 * layers]);
  }
}

/** Indexes of `count` positions of each head, in an array [places, heads, room]. */
function rowsOf({ room, place, start }: Span, count: number, heads: number): number[] {
  return Array.from({ length: heads * count }, (_, i) => {
    const head = Math.floor(i / count);
    return (place * heads + head) * room + start + (i % count);
  });
}

function asRow(row: Kv): DeviceRow {
  if (row instanceof DeviceRow) return row;
  throw new Error("the row is not on the device");
}
