/** Whether a host, as it stands in a URL or in a setting, is this machine alone. */
export function isLoopback(host: string): boolean {
  return /^(localhost|::1|\[::1\]|127(\.\d{1,3}){3})$/.test(host);
}
