/** Names of cells: which ones a tenant prefers, and where one is; and what calls one. Pure. */
import type { Jurisdiction } from "../../shared/contracts/tenants.ts";
import { rendezvousOrder } from "../backend/rendezvous.ts";
import { nameIn } from "../platform/objects.ts";
import { type Region, regions } from "../platform/region.ts";

/** Gives the object of that name, created in that region if there is none yet. */
export type CellNamespace = (
  name: string,
  region: Region,
) => { fetch(url: string, init: RequestInit): Promise<Response> };

/** Cells of the release before tell a request by this URL; those of this one take any. */
export const cellUrl = "https://shard/order";

/** Names of a region's cells, in the order in which the tenant prefers them. A jurisdiction has cells of its own. */
export function cellsOf(
  tenant: string,
  region: Region,
  cellsPerRegion: number,
  jurisdiction: Jurisdiction | null = null,
): string[] {
  const names = Array.from({ length: cellsPerRegion }, (_, i) => nameIn(jurisdiction, `cell-${region}-${i}`));
  return rendezvousOrder(tenant, names);
}

/** The region of a cell by its name; null for any other name. */
export function regionOfCell(name: string | undefined): Region | null {
  const [, region] = /^(?:[a-z]+:)?cell-([a-z]+)-\d+$/.exec(name ?? "") ?? [];
  return regions.find((one) => one === region) ?? null;
}
