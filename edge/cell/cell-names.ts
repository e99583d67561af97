/** Names of cells: which ones a tenant prefers, and where one is; and what calls one. Pure. */
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { rendezvousOrder } from "../dispatch/router.ts";
import { type Region, regions } from "../platform/region.ts";

/** Gives the object of that name, created in that region if there is none yet. */
export type CellNamespace = (
  name: string,
  region: Region,
) => { fetch(url: string, init: RequestInit): Promise<Response> };

/** `fetch` needs a URL; cells do not read it. */
export const cellUrl = "https://cell/";

/** Names of a region's cells, in the order in which the tenant prefers them. A jurisdiction has cells of its own. */
export function cellsOf(tenant: string, region: Region, cellsPerRegion: number): string[] {
  const jurisdiction = jurisdictionOf(tenant);
  const prefix = jurisdiction === null ? "" : `${jurisdiction}:`;
  const names = Array.from({ length: cellsPerRegion }, (_, i) => `${prefix}cell-${region}-${i}`);
  return rendezvousOrder(tenant, names);
}

/** The region of a cell by its name; null for any other name. */
export function regionOfCell(name: string | undefined): Region | null {
  const [, region] = /^(?:[a-z]+:)?cell-([a-z]+)-\d+$/.exec(name ?? "") ?? [];
  return regions.find((one) => one === region) ?? null;
}
