/** The adapters that can answer: the centroids', and the own adapters of the key's tenant. */
import type { Adapter, AdapterList, CentroidList } from "../../shared/contracts/responses.ts";
import type { Api } from "./api.ts";
import { CallFailure } from "./api.ts";
import { type Centroid, domainOf } from "./domains.ts";

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

  get baseModel(): string {
    return this.centroids[0]?.model.split(":")[0] ?? "";
  }

  /** Own adapters that are fitted to examples, or whose documents are ready. */
  get usableAdapters(): readonly Adapter[] {
    return this.adapters.filter(({ hash, memory }) => (hash ?? memory?.hash ?? null) !== null);
  }

  async load(): Promise<void> {
    const [centroids, adapters] = await Promise.all([this.#api.json<CentroidList>("/v1/centroids"), this.#adapters()]);
    this.centroids = centroids.data;
    this.adapters = adapters;
    for (const changed of this.#listeners) changed();
  }

  async #adapters(): Promise<Adapter[]> {
    try {
      return (await this.#api.json<AdapterList>("/v1/adapters")).data;
    } catch (error) {
      if (error instanceof CallFailure && error.code === "insufficient_permissions") return [];
      throw error;
    }
  }

  onChange(changed: () => void): void {
    this.#listeners.push(changed);
  }

  nameOf(id: string): string {
    const centroid = this.centroids.find((one) => one.id === id);
    if (centroid) return domainOf(centroid).name;
    return plainNames.get(id) ?? id;
  }
}
