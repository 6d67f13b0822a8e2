"""stub"""
def mount_page(app, service):
    pass
