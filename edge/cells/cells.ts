/**
 * The Worker's side of the regional cells: which cell answers a request. A tenant's requests prefer one cell of their region,
 * by rendezvous hashing, so that they meet there in micro-batches; when it is full, the tenant's next cell takes them.
 */
import { rendezvousOrder } from "../backend/rendezvous.ts";
import { CellFull } from "../batching/batch-client.ts";
import type { Cells } from "../completions/cell-request.ts";
import type { Region } from "../platform/region.ts";
import { refusalOf } from "./refusal.ts";

/** Gives the object of that name, created in that region if there is none yet. */
export type CellNamespace = (
  name: string,
  region: Region,
) => { fetch(url: string, init: RequestInit): Promise<Response> };

/** Cells of the release before tell requests by this URL. */
const cellUrl = "https://shard/order";

/** Names of a region's cells, in the order in which the tenant prefers them. */
export function cellsOf(tenant: string, region: Region, cellsPerRegion: number): string[] {
  const names = Array.from({ length: cellsPerRegion }, (_, i) => `cell-${region}-${i}`);
  return rendezvousOrder(tenant, names);
}

export function createCells(namespace: CellNamespace, cellsPerRegion: number): Cells {
  return async (request, region, signal) => {
    const body = JSON.stringify(request);
    const ask = async (name: string) => {
      const response = await namespace(name, region).fetch(cellUrl, { method: "POST", body, signal });
      if (!response.ok) throw await refusalOf(response);
      return response;
    };
    const [preferred, next] = cellsOf(request.admitted.tenant, region, cellsPerRegion);
    try {
      return await ask(preferred);
    } catch (thrown) {
      if (!isFull(thrown) || next === undefined) throw thrown;
      return await ask(next);
    }
  };
}

/** The cell has no room, or the platform's queue for it has none. Such an object must not be called again at once. */
function isFull(thrown: unknown): boolean {
  return thrown instanceof CellFull || (thrown as { overloaded?: unknown }).overloaded === true;
}
