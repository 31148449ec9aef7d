/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the examples of the C reference use but do not declare: test_documents.py compiles
 * them. The functions of GTK are here so that its headers need not be. */
#include <sys/socket.h>

#include <gio/gunixfdlist.h>
#include <spice-client.h>
#include <spice-qmp/spice-qmp.h>

typedef void GtkDialog;
typedef void GtkListBox;
typedef void GtkWidget;
#define GTK_RESPONSE_OK (-5)
void gtk_label_set_text(gpointer label, const char *text);
const char *gtk_entry_get_text(gpointer entry);
void gtk_list_box_bind_model(gpointer box, GListModel *model, gpointer new_row, gpointer data,
                             GDestroyNotify destroy);
void gtk_widget_insert_action_group(gpointer widget, const char *name, GActionGroup *actions);

extern SpiceQmpPort *port;
extern SpiceQmpMachine *machine;
extern SpiceQmpDrive *drive;
extern SpiceQmpJob *job;
extern SpiceQmpSchema *schema;
extern SpiceQmpConnector *connector;
extern GDBusConnection *connection;
extern GSocketClient *client;
extern GAsyncResult *result;
extern GCancellable *cancellable;
extern GError *error;
extern GMenu *menu;
extern gpointer bar, box, cancel_button, label, password_entry, progress_bar, session, window;
extern int fd;

#define _(text) text
void cancel(void);
void hide_banner(void);
gpointer make_drive_row(gpointer drive, gpointer window);
void offer_screenshots(gpointer window);
void remove_device(const char *id);
void save(gpointer window, GBytes *bytes);
void show_banner(const char *format, ...);
void show_error(gpointer window, const char *message);
GIOStream *stream_of(int fd);
void use_port(gpointer window, SpiceQmpPort *port);
