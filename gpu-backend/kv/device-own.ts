/**
 * A pool of tenants' own adapters on the device. If no place is free, a new adapter replaces the least recently used one. Place 0 holds
 * zeros, for rows without an own adapter.
 * Shapes: D hidden, R rank, E places, N rows of the head, U adapters that a row uses at most.
 */
import { ownRank as R } from "../../shared/artifacts/limits.ts";
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import { buildCopy } from "../runtime/device-graph.ts";
import { copyFeeds, type DeviceBuffer, type DeviceMemory, view, viewAs } from "../runtime/device-memory.ts";
import { names } from "../runtime/graph-names.ts";
import { type Session, type Tensor, tensor } from "../runtime/session.ts";
import type { HiddenChange, ModelShape, OwnChanges } from "../runtime/step.ts";

const firstPlaces = 64;

export class DeviceOwn {
  readonly #D: number;
  readonly #memory: DeviceMemory;
  readonly #write: Session;
  #places = 0;
  #a: DeviceBuffer | null = null;
  #b: DeviceBuffer | null = null;
  /** Places of adapters, least recently used first. */
  readonly #placeOf = new Map<HiddenChange, number>();

  private constructor({ hiddenSize }: ModelShape, memory: DeviceMemory, write: Session) {
    this.#D = hiddenSize;
    this.#memory = memory;
    this.#write = write;
  }

  static async open(config: ModelShape, memory: DeviceMemory): Promise<DeviceOwn> {
    return new DeviceOwn(config, memory, await memory.session(buildCopy(1)));
  }

  /** Writes missing adapters to the pool. Returns the inputs of the head's graph for N rows. */
  async feeds({ rows, changes, indexes, weights }: OwnChanges, N: number): Promise<Record<string, Tensor>> {
    if (changes.length >= this.#places) await this.#resize(powerOfTwo(changes.length + 1, firstPlaces));
    for (const change of changes) {
      const place = this.#placeOf.get(change);
      this.#placeOf.delete(change);
      if (place !== undefined) this.#placeOf.set(change, place);
    }
    for (const change of changes) if (!this.#placeOf.has(change)) await this.#add(change);
    const U = indexes.length / rows.length;
    const [places, factors] = [new Int32Array(N * U), new Float32Array(N * U)];
    rows.forEach((row, x) => {
      for (let u = 0; u < U; u++) {
        places[row * U + u] = this.#placeOf.get(changes[indexes[x * U + u]])!;
        factors[row * U + u] = weights[x * U + u];
      }
    });
    return {
      [names.ownIndexes]: tensor(places, [N, U]),
      [names.ownWeights]: tensor(factors, [N, U, 1, 1]),
      [names.ownA]: view(this.#a!, this.#places, this.#D, R),
      [names.ownB]: view(this.#b!, this.#places, R + 1, this.#D),
    };
  }

  async #add(change: HiddenChange): Promise<void> {
    let place = this.#placeOf.size + 1;
    if (place === this.#places) {
      const [oldest, its] = this.#placeOf.entries().next().value!;
      this.#placeOf.delete(oldest);
      place = its;
    }
    await this.#writePlace(this.#a!, place, change.a, R);
    await this.#writePlace(this.#b!, place, change.b, this.#D);
    this.#placeOf.set(change, place);
  }

  /** Writes `values` as rows of `width` elements. */
  async #writePlace(pool: DeviceBuffer, place: number, values: Float32Array, width: number): Promise<void> {
    const rows = values.length / width;
    const kept = viewAs("int32", pool, pool.elements / width, width);
    const integers = new Int32Array(values.buffer, values.byteOffset, values.length);
    const from = Array.from({ length: rows }, (_, i) => i);
    const indexes = copyFeeds(
      from,
      from.map((i) => place * rows + i),
    );
    const feeds = { "x.0": tensor(integers, [rows, width]), ...indexes, [names.kept(0)]: kept };
    await this.#memory.run(this.#write, feeds, [], { [names.grown(0)]: kept });
  }

  async #resize(places: number): Promise<void> {
    for (const pool of [this.#a, this.#b]) if (pool) this.#memory.free(pool);
    this.#a = await this.#memory.allocate(places * this.#D * R);
    this.#b = await this.#memory.allocate(places * (R + 1) * this.#D);
    this.#places = places;
    this.#placeOf.clear();
  }
}
