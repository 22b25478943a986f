// The technician's browser, on his laptop: he opens the edge's pages through the tunnel, scans its LAN,
// makes the camera a virtual device with a click, and opens the camera's own page.

export default async ({ context, page, args, screenshot }) => {
  await page.setViewportSize({ width: 1360, height: 900 });
  await page.goto(`${args.url}/devices`);
  await page.getByRole("button", { name: "Scan the LAN" }).click();
  await page.getByText("The scan has begun.").waitFor();
  await screenshot("lab-edge-scan");
  await page.getByRole("heading", { name: "Last scan" }).waitFor();
  await screenshot("lab-edge-scanned");
  await page.goto(`${args.url}/devices`);
  await screenshot("lab-edge-devices");
  await page.goto(`${args.url}/devices/192.168.1.9`);
  await page.getByRole("button", { name: "Make it a virtual device" }).click();
  await page.getByText("It is reached at", { exact: false }).waitFor();
  await screenshot("lab-edge-device");
  const href = await page.getByRole("link", { name: "Open its page" }).getAttribute("href");
  const camera = await context.newPage();
  for (let turn = 0; ; turn += 1) {
    try {
      await camera.goto(href, { timeout: 5000 });
      break;
    } catch (error) {
      // The name and the way there are told within a moment.
      if (turn > 20) throw error;
      await camera.waitForTimeout(500);
    }
  }
  const title = await camera.title();
  await page.goto(`${args.url}/forwards`);
  await page.getByRole("button", { name: "Does it answer? port 8080" }).click();
  await page.getByText("it answers", { exact: false }).waitFor();
  await screenshot("lab-edge-forward");
  await page.goto(args.url);
  await screenshot("lab-edge-overview");
  return { page: title, href };
};
