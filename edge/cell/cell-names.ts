/** Names of cells, and the order in which a tenant prefers them. */
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { rendezvousOrder } from "../dispatch/router.ts";
import { type Region, regions } from "../platform/region.ts";

/** Returns the cell with this name. A new cell is created in `region`. */
export type CellNamespace = (
  name: string,
  region: Region,
) => { fetch(url: string, init: RequestInit): Promise<Response> };

/** `fetch` needs a URL; cells do not read it. */
export const cellUrl = "https://cell/";

/** A region's cells in the tenant's order of preference. Each jurisdiction has its own cells. */
export function cellsOf(tenant: string, region: Region, cellsPerRegion: number): string[] {
  const jurisdiction = jurisdictionOf(tenant);
  const prefix = jurisdiction === null ? "" : `${jurisdiction}:`;
  const names = Array.from({ length: cellsPerRegion }, (_, i) => `${prefix}cell-${region}-${i}`);
  return rendezvousOrder(tenant, names);
}

export function regionOfCell(name: string | undefined): Region | null {
  const [, region] = /^(?:[a-z]+:)?cell-([a-z]+)-\d+$/.exec(name ?? "") ?? [];
  return regions.find((one) => one === region) ?? null;
}

/** Makes a tenant's preferred cell load its artifacts while the Worker loads its own. */
export function createWaker(
  { namespace, cellsPerRegion }: { namespace: CellNamespace; cellsPerRegion: number },
  background: (work: Promise<void>) => void,
): (tenant: string, region: Region) => void {
  const woken = new Set<string>();
  return (tenant, region) => {
    const [name] = cellsOf(tenant, region, cellsPerRegion);
    if (woken.has(name)) return;
    woken.add(name);
    const wake = async () => {
      const response = await namespace(name, region).fetch(cellUrl, { method: "GET" });
      await response.body?.cancel();
    };
    background(wake().catch(() => undefined));
  };
}
