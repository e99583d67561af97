/** The real cells and ledgers, and what they report. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, onTestFinished, vi } from "vitest";
import type { Cell } from "../../edge/cell/cell.ts";
import { cellsOf } from "../../edge/cell/cell-names.ts";
import { objectNamed } from "../../edge/platform/objects.ts";
import { defaultRegion, type Region } from "../../edge/platform/region.ts";
import type { Consumption } from "../../edge/tenants/consumption.ts";
import type { Ledger } from "../../edge/tenants/ledger.ts";
import type { TenantAdapterStore } from "../../edge/tenants/tenant-adapter-store.ts";

export const cellsPerRegion = Number(env.CELLS_PER_REGION);
export const cellNamed = (name: string, region: Region = defaultRegion) => objectNamed(env.CELLS, name, region);

/** The cells of the tenant `local`. The first one answers the tenant's requests. */
export const localCells = () => cellsOf("local", defaultRegion, cellsPerRegion).map((name) => cellNamed(name));
export const localCell = () => localCells()[0];
export const cellIsIdle = () => runInDurableObject(localCell(), ({ dispatcher }: Cell) => dispatcher.idle);

/** Records the use that cells report. The returned function gives the reports since its last call. */
export async function reportedByCells(): Promise<() => [string, ...Consumption[]][]> {
  const reported: [string, ...Consumption[]][] = [];
  for (const stub of localCells()) {
    await runInDurableObject(stub, async (cell: Cell) => {
      // Waits for the reports of earlier tests.
      await vi.waitFor(() => expect(cell.settlements.idle).toBe(true));
      cell.report = (tenant, consumed) => void reported.push([tenant, ...consumed]);
    });
  }
  return () => reported.splice(0);
}

export function ledgerOfTenant(tenant: string) {
  const ledger = env.LEDGERS.getByName(tenant);
  const inLedger = <T>(work: (object: Ledger, state: DurableObjectState) => T) => runInDurableObject(ledger, work);
  return {
    ...{ ledger, inLedger },
    stateOf: () => inLedger(({ quota }) => quota.state),
    usage: () => ledger.usage("2000-01-01", "2100-01-01"),
  };
}

/** The tenant has limits unless an idempotency key is given. */
export function settle(
  ledger: DurableObjectStub<Ledger>,
  requestId: string,
  consumed: Consumption[],
  idempotencyKey?: string,
): Promise<Consumption[]> {
  const request = { requestId, tenant: "", beganMs: 0, isLimited: idempotencyKey === undefined, idempotencyKey };
  return ledger.settleAll(requestId, [{ request, consumed }]);
}

export async function configure(stub: DurableObjectStub<Cell | TenantAdapterStore>, variables: object): Promise<void> {
  const change = (values: object) =>
    runInDurableObject(stub, (object) => void Object.assign((object as unknown as { env: object }).env, values));
  const before = Object.fromEntries(Object.keys(variables).map((name) => [name, env[name as never]]));
  onTestFinished(() => change(before));
  await change(variables);
}
