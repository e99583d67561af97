/** The tenant whose ledger has this name. */
export function tenantOf(name: string): string {
  return name;
}
