/** Calls the admin API of a started stack with the stack's admin key. */
import { readLocalRun } from "../../infra/local-run.ts";
import { type NewKey, newKeySchema } from "../../shared/contracts/admin.ts";

export async function callAdmin(state: string, method: string, path: string, body?: object): Promise<unknown> {
  const { edge, adminKey } = readLocalRun(state)!;
  const response = await fetch(`${edge}/admin/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${adminKey}`, "content-type": "application/json" },
    ...(body && { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path} was answered ${response.status}: ${text}`);
  return JSON.parse(text);
}

/** Without `scopes`, the key has every scope. */
export async function newKeyOf(state: string, tenant: string, scopes?: readonly string[]): Promise<NewKey> {
  return newKeySchema.parse(await callAdmin(state, "POST", "/keys", { tenant, ...(scopes && { scopes }) }));
}
