use http::Method;
use warren_proto::{ForwardSpec, GatewaySpec, VirtualDeviceSpec};

use super::{Client, Error, account_path};
use crate::admin::{Edge, EdgeEdit, Wake};

impl Client {
    /// An account's edges.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn edges(&self, account: &str) -> Result<Vec<Edge>, Error> {
        self.list(&format!("{}/edges", account_path(account))).await
    }

    /// One device as an edge, by name or id.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn edge(&self, account: &str, edge: &str) -> Result<Edge, Error> {
        self.get(&edge_path(account, edge)).await
    }

    /// Changes a device as an edge.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn change_edge(
        &self,
        account: &str,
        edge: &str,
        edit: &EdgeEdit,
    ) -> Result<Edge, Error> {
        self.send(Method::PATCH, &edge_path(account, edge), Some(edit)).await
    }

    /// Has an edge call a card of its LAN.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn wake(&self, account: &str, edge: &str, wake: &Wake) -> Result<Edge, Error> {
        self.send(Method::POST, &format!("{}/wake", edge_path(account, edge)), Some(wake)).await
    }

    /// An edge's port forwards.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn forwards(&self, account: &str, edge: &str) -> Result<Vec<ForwardSpec>, Error> {
        self.list(&format!("{}/forwards", edge_path(account, edge))).await
    }

    /// An edge's virtual devices.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn virtual_devices(
        &self,
        account: &str,
        edge: &str,
    ) -> Result<Vec<VirtualDeviceSpec>, Error> {
        self.list(&format!("{}/virtual-devices", edge_path(account, edge))).await
    }

    /// An edge's gateways.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn gateways(&self, account: &str, edge: &str) -> Result<Vec<GatewaySpec>, Error> {
        self.list(&format!("{}/gateways", edge_path(account, edge))).await
    }
}

fn edge_path(account: &str, edge: &str) -> String {
    format!("{}/edges/{}", account_path(account), super::escape(edge))
}
