//! What the demonstration is made of, as files: the configuration that `windward serve` would read, and the grid's readings.
//!
//! The demonstration runs the product, not a look-alike: its proxy is started from this YAML, and its grids arrive through the
//! carbon source `file`, which reads the file again when it changes. Whoever wants to know how it is done can read both.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use jiff::Timestamp;

use crate::config::fleet::FleetPlan;

/// Until the first token, for 95 of 100 requests: so tight that a crowded region fails it, and loose enough for a transatlantic one.
pub const BUDGET_MS: u32 = 400;
/// What a region is believed to add to its round trip before anything was measured, in milliseconds.
const EXPECTED_READING_MS: f64 = 60.0;

/// The proxy's configuration for a fleet that listens at `addresses`.
pub fn configuration(
    fleet: &FleetPlan,
    addresses: &[SocketAddr],
    listen: SocketAddr,
    admin: SocketAddr,
    log: &Path,
    grid: &Path,
) -> String {
    let mut text = format!(
        "listeners: [{{ address: \"{listen}\" }}]\nadmin: {{ address: \"{admin}\" }}\nworkers: 1\nlog: {{ access: {log} }}\n\
         carbon:\n  sources:\n    - file: {{ path: {grid}, simulated: true }}\n    - builtin\n\
         policies:\n  - name: interactive\n    objective: least_carbon\n    latency_budget: {{ first_token: {BUDGET_MS}ms, quantile: 0.95 }}\n\
         backends:\n",
        log = quoted(log),
        grid = quoted(grid),
    );
    let models: Vec<&str> = fleet.models.iter().map(|model| &**model).collect();
    for (region, address) in fleet.regions.iter().zip(addresses) {
        let spec = &region.spec;
        let slots = u32::from(spec.replicas.get()) * u32::from(spec.slots_per_replica.get());
        let expected = spec.rtt.get() + EXPECTED_READING_MS;
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "  - name: {name}\n    url: http://{address}/v1\n    region: {region}\n    simulated: true\n    models: [{models}]\n    \
             max_in_flight: {slots}\n    expect: {{ first_token: {expected:.0}ms }}\n",
            name = short(&spec.name),
            region = spec.name,
            models = models.join(", "),
        );
    }
    let names: Vec<&str> = fleet.regions.iter().map(|region| short(&region.spec.name)).collect();
    let _ = writeln!(
        text,
        "routes:\n  - {{ name: demo, match: {{ path: /v1 }}, backends: [{}], policy: interactive }}",
        names.join(", ")
    );
    text
}

/// The readings of every region's grid at an hour of the simulated day, as the carbon source `file` reads them.
pub fn grid(fleet: &FleetPlan, zones: &[String], utc_hour: f64, now: Timestamp) -> String {
    let mut text = String::from("grid_zone,datetime,carbon_intensity_g_per_kwh\n");
    for (region, zone) in fleet.regions.iter().zip(zones) {
        if let Some(day) = region.day {
            let _ = writeln!(text, "{zone},{now},{:.1}", day.intensity(utc_hour).get());
        }
    }
    text
}

/// A region's name as a backend's: `us-west-2` of `aws/us-west-2`.
pub fn short(region: &str) -> &str {
    region.rsplit('/').next().unwrap_or(region)
}

/// A path as YAML reads it back, whatever is in it.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.display().to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Env};

    #[test]
    fn the_configuration_is_one_that_serve_would_take() {
        let fleet = FleetPlan::shipped().unwrap();
        let addresses: Vec<SocketAddr> = fleet.regions.iter().map(|_| SocketAddr::from(([127, 0, 0, 1], 9000))).collect();
        let listen = SocketAddr::from(([127, 0, 0, 1], 8080));
        let admin = SocketAddr::from(([127, 0, 0, 1], 9090));
        let text = configuration(&fleet, &addresses, listen, admin, Path::new("/a \"b\"/log"), Path::new("grid.csv"));
        let loaded =
            config::load("demo.yaml", &text, &Env::default(), &config::NoFiles).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.plan.backends.len(), fleet.regions.len());
        assert!(loaded.plan.backends.iter().all(|backend| backend.simulated));
    }
}
