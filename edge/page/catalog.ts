/** What can answer here: the base, the served centroids, the key's own adapters; and who wants to know when they change. */
import type { Adapter, AdapterList, CentroidList } from "../../shared/contracts/responses.ts";
import type { Api } from "./api.ts";
import { CallFailure } from "./api.ts";
import { type Centroid, domainOf } from "./domains.ts";

/** What people call the experts that stand for no kind of text. */
const plainNames: ReadonlyMap<string, string> = new Map([
  ["base", "Base"],
  ["static", "Every text"],
]);

export class Catalog {
  readonly #api: Pick<Api, "json">;
  readonly #listeners: (() => void)[] = [];
  centroids: readonly Centroid[] = [];
  adapters: readonly Adapter[] = [];

  constructor(api: Pick<Api, "json">) {
    this.#api = api;
  }

  /** The name of the base model, such as `gpt2`. */
  get baseModel(): string {
    return this.centroids[0]?.model.split(":")[0] ?? "";
  }

  /** Adapters of the key's own that can answer: with documents that are ready if with nothing else. */
  get usableAdapters(): readonly Adapter[] {
    return this.adapters.filter(({ hash, memory }) => (hash ?? memory?.hash ?? null) !== null);
  }

  /** Throws CallFailure. */
  async load(): Promise<void> {
    const [centroids, adapters] = await Promise.all([this.#api.json<CentroidList>("/v1/centroids"), this.#adapters()]);
    this.centroids = centroids.data;
    this.adapters = adapters;
    for (const changed of this.#listeners) changed();
  }

  /** None for a key that may not use adapters of its own. */
  async #adapters(): Promise<Adapter[]> {
    try {
      return (await this.#api.json<AdapterList>("/v1/adapters")).data;
    } catch (error) {
      if (error instanceof CallFailure && error.code === "insufficient_permissions") return [];
      throw error;
    }
  }

  /** Calls `changed` after every load. */
  onChange(changed: () => void): void {
    this.#listeners.push(changed);
  }

  /** An expert's name for people. */
  nameOf(id: string): string {
    const centroid = this.centroids.find((one) => one.id === id);
    if (centroid) return domainOf(centroid).name;
    return plainNames.get(id) ?? id;
  }
}
