// Signs in by the provider in a real browser, with script and without.

import { readFileSync } from "node:fs";

const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

export default async ({ browser, args, picture, require }) => {
  const problems = [];
  const axe = readFileSync(require.resolve("axe-core"), "utf8");
  const look = async (page, name) => {
    await page.screenshot({ path: picture(`portal-${name}`), fullPage: true });
    await page.evaluate(axe);
    const { violations } = await page.evaluate((tags) => axe.run({ runOnly: tags }), RULES);
    for (const { id, nodes } of violations) problems.push(`${name}: ${id}: ${nodes.map((node) => node.html).join(" ")}`);
  };
  for (const javaScriptEnabled of [true, false]) {
    const context = await browser.newContext({ ignoreHTTPSErrors: true, javaScriptEnabled });
    const page = await context.newPage();
    page.on("console", (message) => {
      const ours = message.location().url.startsWith(args.url);
      if (ours && ["error", "warning"].includes(message.type())) problems.push(message.text());
    });
    const leave = async () => {
      await page.goto(`${args.url}/a/home/devices`);
      await page.getByRole("button", { name: "Continue with Example" }).click();
    };
    if (javaScriptEnabled) {
      // The page in between, for who is not sent on by himself.
      const ours = (url) => url.href.startsWith(args.url);
      await page.route(ours, async (route) => {
        const response = await route.fetch({ maxRedirects: 0 });
        const { refresh, ...headers } = response.headers();
        await route.fulfill({ response, headers });
      });
      await leave();
      await page.getByRole("heading", { name: "On to Example" }).waitFor();
      await look(page, "sso-leave");
      await page.unroute(ours);
    }
    await leave();
    await page.locator("input[name=login]").fill("ann");
    await page.locator("input[name=password]").fill("x");
    await page.getByRole("button").first().click();
    await page.getByRole("button", { name: "Continue" }).click();
    await page.waitForURL(`${args.url}/a/home/devices`);
    await page.goto(`${args.url}/profile`);
    await page.getByText("by single sign-on").first().waitFor();
    if (javaScriptEnabled) await look(page, "profile-sso");
    await context.close();
  }
  return problems;
};
