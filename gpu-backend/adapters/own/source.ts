/** Tenants' instant adapters beside the generated ones, so that the engine's cache knows of one kind of adapter only. */
import type { Adapter, AdapterSource } from "../adapter.ts";
import { type InstantShape, unpackInstant } from "./artifact.ts";
import type { InstantFiles } from "./store.ts";

/** What the engine calls a tenant's adapter; no centroid's id has a slash. */
export function instantId(tenant: string, hash: string): string {
  return `${tenant}/${hash}`;
}

/** About what V8 takes for the record beside its arrays, as in generated.ts. */
const recordBytes = 512;

export function withInstantAdapters(
  generated: AdapterSource,
  store: Pick<InstantFiles, "read">,
  shape: InstantShape,
): AdapterSource {
  return {
    hashOf: (id) => (id.includes("/") ? id.split("/")[1] : generated.hashOf(id)),
    generate: (id) => (id.includes("/") ? read(id, store, shape) : generated.generate(id)),
  };
}

async function read(id: string, store: Pick<InstantFiles, "read">, shape: InstantShape): Promise<Adapter> {
  const [tenant, hash] = id.split("/");
  const bytes = await store.read(tenant, hash);
  if (!bytes) throw new Error(`there is no adapter ${hash} of this tenant`);
  const parts = unpackInstant(bytes, shape);
  const isBase = !parts.gates && !parts.bias;
  return { hash, ...parts, scale: isBase ? 0 : 1, bytes: bytes.length + recordBytes };
}
